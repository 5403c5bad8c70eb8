"""Queries out of thin air, which an embedder reads when a small copy of it is made: nobody's words are needed.

words of the vocabulary -> sentences that nobody ever wrote, in the forms of questions, orders, complaints and lists

The words are drawn at random, so the sentences mean nothing; how much each word counts beside the others is real.
"""

import random
from collections.abc import Sequence

FORMS = tuple("""
what is {}
what is the {} of {}
how do i {} a {}
how do i {} my {} without {}
where can i find {} near {}
when does the {} {} start
who wrote {}
who is the {} of {}
why is my {} {}
why do {} {} when it is {}
is it {} to {} a {}
can you {} the {} for me
can you tell me about {} and {}
please {} my {}
please write a {} about {} and {}
write a {} in which a {} meets a {}
translate {} {} into {}
summarize the following text: {} {} {} {} {} {} {} {} {}
i want to {} my {} by {}
i need {} for my {}
i would like to {} some {} tomorrow
i have a problem with my {}, it does not {}
my {} is {} since {}, what should i do
my {} did not {} yesterday
the {} {} was {} but the {} is {}
a {} has {} {} and {} {}, how many {} are left
if a {} costs {} dollars, how much do {} {} cost
explain {} to a {}
explain the difference between {} and {}
what happens if {} and {} are {}
give me {} ideas for a {}
list {} kinds of {}
which {} is the best for {}
which of these is a {}: {}, {}, {}
how much {} is in {}
how long does it take to {} a {}
how far is {} from {}
how many {} does a {} have
do i need a {} to {} in {}
does {} work with {}
did {} ever {} the {}
are there any {} in {}
set a {} for {}
turn the {} {}
show me the {} of the {}
play some {} by {}
add {} to my {} list
cancel my {}
change the {} to {}
remind me to {} the {} at {}
tell me a {} about {}
tell {} that i will {} {}
book a {} for {} people in {}
find a {} with {} and {}
compare {} with {}
implement a {} that {} a {} in python
fix this error: {} {} is not {}
what does {} mean in {}
how would you say {} in {}
what is your {}
do you like {}
are you a {}
that is {} {}
thanks for the {}
hello, i am a {} from {}
let us talk about {}
in {}, the {} of {} is used to {} the {}
the capital of {}
{}
{} {}
{} {} {}
{} {} {} {}
{} {} {} {} {}
{} {} {} {} {} {}
{} {} {} {} {} {} {} {}
{} {} {} {} {} {} {} {} {} {}
{} of {} in {} for {} with {}
calculate {} times {} plus {}
prove that every {} is {}
design a {} for a {} that handles {} {}
as a {}, i {} {} to {}
you are a {}. {} the {} and answer with {}
what are the {} effects of {} on {}
recommend a {} like {}
how can {} be prevented
to keep {} from {}, use {}
how to make {} {} at home
what time is the {} in {}
what is the weather in {}
my {} was {} twice on my {} statement
i lost my {} in {}
i was charged for {} that i never {}
is there a fee for {} a {}
the {} says {}, is that {}
i cannot {} the {} because it is {}
someone {} my {}, please help
could i get a {} {} instead of {}
""".strip().splitlines())  # fmt: skip


def invented(words: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """`count` queries; `words` are the vocabulary's, frequent ones first."""
    chance = random.Random(seed)
    forms = [chance.choice(FORMS) for _ in range(count)]
    return [form.format(*(_drawn(words, chance) for _ in range(form.count("{}")))) for form in forms]


def _drawn(words: Sequence[str], chance: random.Random) -> str:
    """Half of the time any word is as likely as any other, else by Zipf's law."""
    if chance.random() < 0.5:
        return words[int(len(words) ** chance.random()) - 1]
    return chance.choice(words)
