#!/usr/bin/env bash
# skills-ref 0.1.1, the reference implementation of Agent Skills, ends the front matter at the first `---` anywhere,
# not at a line of its own. A SKILL.md whose description holds one is called valid, and read wrongly without a word:
# the description is cut, and the fields below it become the body. It also refuses every list or map in YAML's flow style.
# Exits 0 while that holds, 1 once it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check skills-ref==0.1.1 strictyaml==1.7.3
cd "$folder"
mkdir dashes flow
printf -- '---\nname: dashes\ndescription: Draws boxes --- use for tables.\nlicense: MIT\n---\nDraw.\n' > dashes/SKILL.md
printf -- '---\nname: flow\ndescription: Lists.\nallowed-tools: [Read, Write]\n---\nList.\n' > flow/SKILL.md
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

from skills_ref.parser import parse_frontmatter, read_properties
from skills_ref.validator import validate

print("skills-ref", version("skills-ref"))
dashes = Path("dashes")
properties = read_properties(dashes)
body = parse_frontmatter((dashes / "SKILL.md").read_text())[1]
print("dashes: problems", validate(dashes), "· description", repr(properties.description), "· license", properties.license)
print("dashes: body", repr(body))
flow = validate(Path("flow"))
print("flow: problems", len(flow), "·", flow[0].splitlines()[0] if flow else "")
held = validate(dashes) == [] and properties.description == "Draws boxes" and "license: MIT" in body and flow != []
print("as described" if held else "changed")
sys.exit(not held)
PYTHON
