"""Asks llama.cpp what the tests of this crate compare with, and prints it as JSON lines.

    pip install xllamacpp==2026.10.11549
    python3 llama_cpp.py MODEL.gguf > smollm2.jsonl

First a line for each text of the corpus: its tokens, control tokens not recognised. Then a line for each prompt: what
the model says to it first, always taking the likeliest token.
"""

import json
import os
import sys
import unicodedata
import urllib.request

import xllamacpp

TEXTS = [
    "hello there",
    "Hello, World! It's 2026 and they're here; we've done it, I'd say she'll come, don't.",
    "HELLO'S WE'LL DON'T I'M",
    "fn main() { println!(\"hi {}\", 1_000_000); }\n",
    "    indented\n\tand\ttabs\n\n\n\nfour lines   and   spaces   \n",
    "1234567890 3.14159 -42 1e10 0xdeadbeef 12:34:56 2026-11-23T12:00:00Z",
    "{\"name\": \"file_read\", \"arguments\": {\"path\": \"/home/u/a.txt\", \"n\": [1, 2, 3], \"x\": null}}",
    "Gr\u00fc\u00dfe aus K\u00f6ln, \u00e7a va? \u00d8rsted na\u00efve caf\u00e9",
    unicodedata.normalize("NFD", "Gr\u00fc\u00dfe caf\u00e9 \u00c5ngstr\u00f6m"),
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3067\u3059\u3002\u4e2d\u6587\u4e5f\u53ef\u4ee5\u3002\ud55c\uad6d\uc5b4",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u0928\u092e\u0938\u094d\u0924\u0947",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 emoji \u2764\ufe0f and \u00bd \u2167 \u0663 \u00b2 numbers",
    "a\u00a0b\u2003c\u200bd\u3000e\ufefff",
    "\r\nwindows\r\nlines\r\n \r\n",
    " leading and trailing ",
    "          ",
    "\n",
    " ",
    "\t\t\t",
    "x" * 300,
    "ab " * 60,
    "https://example.com/a/b?c=d&e=%20f#g user@example.org C:\\Users\\x",
    "<b>html</b> &amp; <!-- comment --> </tags>",
    "# Title\n\n- one\n- two\n\n```rust\nlet x = 1;\n```\n",
    "snake_case camelCase PascalCase SCREAMING_CASE kebab-case",
    "!!! ??? ... --- === *** ((( ))) [[[ ]]] {{{ }}} @@@ ### $$$ %%% ^^^ &&&",
    "\u0000\u0001\u007f\u0085 control",
    "\u201cquotes\u201d \u2018single\u2019 \u2014 dash \u2026 dots",
]

PROMPTS = [
    ("", "Repeat: one two three four five six seven eight nine ten."),
    ("You count.", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, go on counting."),
]

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def main() -> None:
    setup = xllamacpp.CommonParams()
    setup.model.path = sys.argv[1]
    setup.n_ctx = 1024
    setup.cpuparams.n_threads = 1
    setup.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(setup)

    def ask(path: str, body: dict) -> dict:
        request = urllib.request.Request(
            server.listening_address + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.loads(answer.read())

    for text in TEXTS:
        got = ask("/tokenize", {"content": text, "add_special": False, "parse_special": False})
        print(json.dumps({"text": text, "tokens": got["tokens"]}), flush=True)
    if "--tokens" not in sys.argv:
        for system, user in PROMPTS:
            prompt = "".join(
                f"<|im_start|>{who}\n{words}<|im_end|>\n" for who, words in (("system", system or SYSTEM), ("user", user))
            )
            body = {"prompt": prompt + "<|im_start|>assistant\n", "n_predict": 24, "temperature": 0, "n_probs": 2}
            got = ask("/completion", body)
            least = min(
                probabilities["top_logprobs"][0]["logprob"] - probabilities["top_logprobs"][1]["logprob"]
                for probabilities in got["completion_probabilities"]
            )
            count = got["tokens_evaluated"]
            print(json.dumps({"system": system, "user": user, "said": got["content"], "prompt_tokens": count, "least_lead": round(least, 3)}), flush=True)
    os._exit(0)


main()
