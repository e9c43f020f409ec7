"""A tool for Claude Code: a server of the Model Context Protocol on its standard streams."""

import json
import sys

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
    "required": ["city"],
}
LOOK = {"name": "look", "description": "Look at a city.", "inputSchema": SCHEMA}

for line in sys.stdin:
    asked = json.loads(line)
    match asked["method"]:
        case "initialize":
            told = {
                "protocolVersion": asked["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "weather", "version": "1"},
            }
        case "tools/list":
            told = {"tools": [LOOK]}
        case "tools/call":
            city = asked["params"]["arguments"]["city"]
            told = {"content": [{"type": "text", "text": f"sunny in {city}"}]}
        case _:
            told = {}
    if "id" in asked:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": told}) + "\n")
        sys.stdout.flush()
