"""Killed at random moments, with a folder, OpenSSH and vsftpd as tiers (issue 4, Must show 5; issue 3, 7): nothing
acknowledged is lost on any tier, the next backup needs no help.

The quick form; `make soak` runs the long one.
"""

import pytest
from tests.soak import kills
from tests.support.requirements import need

SEED, KILLS = 31, 8


@pytest.mark.timeout(600)
def test_killed_at_random_moments(tmp_path):
    need(kills.why_not())
    (tally,) = kills.campaign(str(tmp_path), KILLS, SEED, quick=True)
    assert tally.strikes == KILLS
    assert tally.missed < KILLS / 2
    assert tally.restores >= tally.acknowledged > KILLS - tally.inits
