"""The model card of the shipped classifiers, from the figures that the training printed.

python scripts/filter_card.py FIGURES.json
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from logtune.app.noise_parameters import FILE

CARD = FILE.with_suffix(".md")
HEAD = """# Noise classifiers

`noise.npz` and `noise_encoder.npz` hold five classifiers of a user's query: jailbreak, prompt injection, harmful
request, toxic, spam. They are made by `scripts/train_filter.py`; this card by `scripts/filter_card.py`.

- **What they are for.** Keeping out of the training what a deployment should not learn from. They decide nothing
  about serving: no request is refused because of them.
- **What they read.** The query alone. Rung *quick*: hashed character 3- to 5-grams, words, pairs of words, and the
  shares of kinds of characters; microseconds a text. Rung *full*: these, the clues of our lexicon, and the vector
  of all-MiniLM-L6-v2. A weight a class for each of 131,072 buckets, and a hidden layer of 128 units over the rest.
  Rung *tuned*, where the full one runs and the packaged embedder can be had: the mean of the full rung's log odds and
  those of a copy of all-MiniLM-L6-v2 whose upper three layers were changed by matrices of rank 16 (LoRA), with a head
  over the mean and the maximum of its tokens; of a long text the first 64 and the last 32 tokens. It is asked only
  where the full rung leaves a doubt: a class within 4 (log odds) of its line, or above it. Numbers only, read without
  pickle.
- **What they learned from.** Jailbreak prompts: JailbreakBench artifacts (MIT), in-the-wild prompts of Shen et al.
  (MIT). Injections: CyberSecEval (MIT), BIPIA (MIT). Harmful requests: AdvBench, HarmBench, JailbreakBench (MIT),
  SimpleSafetyTests and XSTest (CC BY). Toxic: Davidson et al. (MIT), OpenAI's moderation evaluation (MIT). Spam:
  SMS Spam Collection (CC BY 4.0). Benign: OASST1 and OASST2 (Apache-2.0), Arena-Hard (Apache-2.0), BANKING77 (CC BY
  4.0), CLINC150 (CC BY 3.0), SNIPS (CC0), RealHumanEval (CC0), CodeChat (ODC-BY), FeedbackQA (Apache-2.0), LLMBar
  (MIT), CyberSecEval's benign requests (MIT). And 3,500 texts that we wrote ourselves
  (`scripts/filter_texts.json`). Nothing under a share-alike licence.
- **How they were measured.** Five folds; near copies and attacks of one category never stand on both sides. A text
  counts as caught when any class reaches its threshold. The lexicon, one input of the full rung, was written by
  people who had seen such sets, so that input is not quite out of fold.

| texts | quick | full | tuned |
|---|---|---|---|
"""
FOOT = """
**Sources that were never seen.** Left out one at a time, of the texts of eleven sources the tuned rung finds 53% on
the mean, the full one 49%: nine of ten orders of AdvBench, two thirds of spam and of XSTest's harmful requests, one in
three of the jailbreaks that people post, one in five or fewer of CyberSecEval's injections and of toxic texts.

**How much of it is chance.** Which class is caught how often hangs on a handful of benign texts, against which the five
lines are drawn together: an earlier training by the same course caught 90% of jailbreaks, 64% of injections, 86% of
harmful requests, 58% of toxic texts and 91% of spam. In the order of their log odds the two are alike.

**Where they fail.** Texts that are noise only by what surrounds them: an instruction that would be harmless if it
did not come out of a pasted document ("What are the benefits of solar power?" in BIPIA), a question in another
language that only the system prompt forbids (CyberSecEval). Insults without a rude word, and tweets whose words are
rude and whose meaning is not. Scenes that ask for harm as fiction without saying so. They know English far better
than other languages: in those they mostly stay silent. Slurs are quoted by people who fight them, so look at
`logtune filter --dry-run` before you trust them with a community's own words.
"""


def rows(figures: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """A line a label, then its sources."""
    wanted = ("jailbreak", "prompt_injection", "harmful_request", "toxic", "spam")
    for key in sorted(figures["full"], key=lambda key: (key.split(" / ")[0], " / " in key)):
        label = key.split(" / ")[0]
        if label in wanted or label.startswith("benign"):
            name = f"**{key}**" if key == label else key.split(" / ")[1]
            kind = "flagged" if label.startswith("benign") else "caught"
            shares = " | ".join(f"{figures[rung][key]:.1%}" for rung in ("quick", "full", "tuned"))
            yield f"| {name}, {kind} | {shares} |"


def main() -> None:
    """Write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figures", type=Path)
    arguments = parser.parse_args()
    figures = json.loads(arguments.figures.read_text(encoding="utf-8"))
    CARD.write_text(HEAD + "\n".join(rows(figures)) + "\n" + FOOT, encoding="utf-8")
    print(f"wrote {CARD}")


if __name__ == "__main__":
    main()
