"""Reads `agentd audit --json`: what each request was thought to take beside what its model counted.

Fails where one is off by more than a tenth, or where there is none.
"""

import json
import sys

thought, off = {}, []
for line in sys.stdin:
    event = json.loads(line)["event"]
    if event["kind"] == "inference_requested":
        thought[event["call"]] = event["estimate"]
    elif event["kind"] == "inference_completed" and "Ok" in event["result"]:
        counted = event["result"]["Ok"]["usage"]["input_tokens"]
        estimate = thought[event["call"]]
        print(f"thought of {estimate} tokens, counted {counted}", file=sys.stderr)
        off.append(abs(estimate - counted) / counted)
sys.exit(0 if off and max(off) <= 0.1 else 1)
