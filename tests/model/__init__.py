"""The rules of the tier protocol, searched breadth-first: every order of what agents, links and storage can do, within
budgets, and a promise that breaks is told with the shortest run to it.

The decisions are the real ones: `verdict.judge`, `planning`, `history` and `joining` of ``tandem_protocol`` are called
with real dataclasses (and their answers remembered by a small key, because distinct situations are few). What lives
in shells, the order of steps around them, is written here once more as small steps that name what they mirror in
``tandem_agent``. Where the two disagree, one of them is wrong.

State (`world`): named tuples of ints. A `Disk` is what stands on a tier: identity, epochs, claims and records by number
(codes of documents, see `things`), objects as bits, a snapshot that its storage may be rolled back to. An `Inst` is
what an installation durably knows (journal, intent, a `Row` per tier) and its operation under way (`Run`, lost in a
crash). Ghosts, marked so, are what only the promises know. Objects: one pack of data that every backup refers to
(bit 0; it keeps its name when it is stored again, which is harder than the real thing), a snapshot for each backup, an
index segment for each time the data is stored. Numbers, epochs and installations are bounded (`things`, `world`).

Steps: `contact`, `writing` (with `drafting`), `syncing`, `taking` (with `uniting`), put together in `agent`; what the
world does is in `faults`. A step is a label and what comes of it: a state, or the text of the promise it breaks. Each
function gives all that may come of a step, what goes well first: the quiet run of `properties` takes the first. What
may happen, and how often, is the budget (`context.BUDGET`) of a `configurations.Configuration`.

Promises (`properties`, and `steps.believed`, `steps.alarmed`, `writing.confirm`):
P1 what is said to be on a tier is there, and what was acknowledged stays; P2 no false alarm; P3 nobody acknowledges
where another installation had written before; P4 from wherever the faults end, a backup comes to its end, with all
tiers and with each one alone; P5 one synchronisation makes the tiers equal, with all that was acknowledged.
Forgiven: what a tier can no longer give because it was struck, and damage that nobody has seen yet: exactly the object
that rotted or vanished, on that tier, until something reads it or notes it lacking (`Disk.gone` less `Row.lacking`).
An index segment that a repair wrote again is not asked of a tier that has yet to get that repair: a reader that misses
a segment takes what it said from the packs. A segment counts only while some installation knows it to be live. The
case left open at the end of the protocol, a roll-back hidden by a clone that writes the same bytes again, is found
(``--mutants claim_bytes``); the rule of that name would close it, and is not in the agent yet.

A rule that is new or found to be missing: give it a name and a line in `rules`, an ``if ctx.rules.name`` where it
acts, and in `mutants` the smallest budget in which the search finds what breaks without it. `test_model` then takes it
out. To see a run: ``python -m tests.model --mutants name``; all: ``--mutants``; the rules as they are:
``--states 5000000``.
"""
