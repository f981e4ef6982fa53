// Serves fixtures over the wire formats of real providers until its standard input ends; prints its base URL first.
//
//     node serve_aimock.mjs FOLDER_OF_NODE_MODULES FIXTURES.json

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, fixtures] = process.argv.slice(2);
const aimock = createRequire(`${modules}/`).resolve("@copilotkit/aimock");
const { LLMock } = (await import(pathToFileURL(aimock).href)).default;

// Strict: what no fixture answers is an error, never something that looks right.
const server = new LLMock({ host: "127.0.0.1", port: 0, strict: true, logLevel: "warn" });
server.loadFixtureFile(fixtures);
await server.start();
console.log(server.url);
process.stdin.resume().on("end", () => process.exit());
