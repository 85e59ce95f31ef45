"""What a rewriter makes of operations it is asked for: done, facts kept, seconds; beside the same base untrained.

    python benchmarks/rewordings.py qwen2.5-coder-0.5b-wording
    python benchmarks/rewordings.py FOLDER --fields cooking support --untrained --json
    python benchmarks/rewordings.py FOLDER --skills 15 --chat              # against llama-cpp-python's chat completion

Every operation that an entry of the corpus has a text for is forced on it. *Changed*: the skill is another text
afterwards. *Facts*: of the entry's checklist, how many the result states, as substrings in any of their spellings; the
second figure is of what was changed alone, the first holds the skills that stayed as they were, too. *Whole*: results
with every fact. A fact may be said in words that no spelling foresaw, so the shares are lower bounds; --show prints
what failed, to be read. The checks of the runtime decide what is refused, never the checklist.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from masa.cards import ModelCard
from masa.errors import MasaError
from masa.prompt import render_prompt
from masa.rewording import wording_request
from masa.rewriter import Rewriter
from masa.skills import Skill, SkillBank
from masa.wording import OPERATIONS
from masa_training.rewordings import Entry, load_field, missing_facts

SIDES = ("trained", "untrained")


@dataclass
class Tally:
    """Of one operation: skills, those that changed, facts in all and stated, results with all of theirs."""

    skills: int = 0
    changed: int = 0
    facts: int = 0
    stated: int = 0
    facts_changed: int = 0
    stated_changed: int = 0
    whole: int = 0


def entries_of(names: Sequence[str], most: int) -> list[Entry]:
    entries = [entry for name in names for entry in load_field(name)]
    return entries[:most] if most else entries


def measure(rewriter: Rewriter, entries: Sequence[Entry], show: bool) -> tuple[dict[str, Tally], float, int]:
    """By operation what became of the entries, the seconds it took, and the tokens written."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    tokens = 0
    started = time.perf_counter()
    for name, operation in OPERATIONS.items():
        suited = [entry for entry in entries if name in entry.texts] if operation.sources == 1 else []
        if not suited:
            continue
        bank = SkillBank(tuple(Skill(e.id, "Rule", e.text, e.when) for e in suited), {})
        result = rewriter.rewrite(bank, ModelCard(family="any"), operation=name)
        group = result.groups[0]
        tokens += group.tokens
        for entry, fate in zip(suited, group.fates, strict=True):
            text = "\n\n".join(group.output.skills[i].principle for i in fate.outputs)
            changed = text != entry.text
            missing = missing_facts(entry, text)
            tally = tallies[name]
            tally.skills += 1
            tally.changed += changed
            tally.facts += len(entry.facts)
            tally.stated += len(entry.facts) - len(missing)
            tally.facts_changed += len(entry.facts) if changed else 0
            tally.stated_changed += len(entry.facts) - len(missing) if changed else 0
            tally.whole += changed and not missing
            if show and (missing or not changed):
                print(f"--- {entry.id} {name}: {'missing ' + '; '.join(missing) if changed else 'unchanged'}")
                print(f"    {entry.text}\n    => {text if changed else group.reason[:200]}", flush=True)
    return tallies, time.perf_counter() - started, tokens


def table(tallies: dict[str, Tally]) -> str:
    lines = [f"{'operation':<12}{'skills':>7}{'changed':>9}{'facts':>8}{'of changed':>12}{'whole':>8}"]
    for name, tally in tallies.items():
        shares = (
            tally.changed / tally.skills,
            tally.stated / tally.facts,
            tally.stated_changed / max(1, tally.facts_changed),
            tally.whole / max(1, tally.changed),
        )
        changed, facts, of_changed, whole = (f"{share:.1%}" for share in shares)
        lines.append(f"{name:<12}{tally.skills:>7}{changed:>9}{facts:>8}{of_changed:>12}{whole:>8}")
    return "\n".join(lines)


def against_chat(rewriter: Rewriter, entries: Sequence[Entry], operation: str) -> None:
    """The same skills reworded here side by side, and one after the other by llama-cpp-python's chat completion."""
    import llama_cpp

    words = rewriter.words
    assert words is not None
    bank = SkillBank(tuple(Skill(e.id, "Rule", e.text, e.when) for e in entries), {})
    rewriter.rewrite(SkillBank(bank.general[:1], {}), ModelCard(family="any"), operation=operation)  # loads
    started = time.perf_counter()
    group = rewriter.rewrite(bank, ModelCard(family="any"), operation=operation).groups[0]
    ours = time.perf_counter() - started
    llama = llama_cpp.Llama(
        str(words.weights_path),
        n_ctx=2048,
        lora_path=str(words.adapter_path) if words.adapter_path else None,
        verbose=False,
    )
    answers = []
    started = time.perf_counter()
    for skill in bank.general:
        prompt = render_prompt(wording_request([skill], operation), "wording", words.chat_template)
        controls = [i for i, segment in enumerate(prompt.shared) if segment.control]
        system = "".join(s.text for s in prompt.shared[: controls[-1]] if not s.control).removeprefix("system\n")
        user = "".join(s.text for s in prompt.own if not s.control).removesuffix("\nassistant\n")
        answer = llama.create_chat_completion(
            [{"role": "system", "content": system.strip()}, {"role": "user", "content": user}],
            temperature=0.0,
            max_tokens=256,
        )
        answers.append(answer["choices"][0]["message"]["content"])
    theirs = time.perf_counter() - started
    for skill, after, answer in list(zip(bank.general, group.output.skills, answers, strict=False))[:3]:
        print(f"source: {skill.principle}\n  masa: {after.principle}\n  chat: {answer}\n")
    told = f"masa {ours:.1f} s, chat completion {theirs:.1f} s, {theirs / ours:.2f} times as fast"
    print(f"{len(entries)} skills, {operation}: {told}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rewriter", help="an artifact of the wording language")
    parser.add_argument("--fields", nargs="+", default=["cooking", "support"], help="fields of the corpus")
    parser.add_argument("--skills", type=int, default=0, help="only so many entries")
    parser.add_argument("--untrained", action="store_true", help="also without the adapter")
    parser.add_argument("--chat", action="store_true", help="time against chat completion, and nothing else")
    parser.add_argument("--operation", default="explain", help="for --chat")
    parser.add_argument("--as-shipped", action="store_true", help="not in the form for this CPU")
    parser.add_argument("--show", action="store_true", help="print what lost a fact or stayed as it was")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        entries = entries_of(args.fields, args.skills)
        with Rewriter.load(args.rewriter, cache=False, form=not args.as_shipped) as rewriter:
            if args.chat:
                against_chat(rewriter, entries, args.operation)
                return 0
            told = {}
            for side in SIDES[: 1 + args.untrained]:
                if side == "untrained":
                    rewriter.use_adapter(None)
                tallies, seconds, tokens = measure(rewriter, entries, args.show)
                told[side] = {name: vars(tally) for name, tally in tallies.items()}
                if not args.json:
                    print(f"{side}: {seconds:.0f} s, {tokens} tokens\n{table(tallies)}\n", flush=True)
    except MasaError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
