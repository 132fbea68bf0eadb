"""Wrong arguments: a ValueError or a TypeError that says so, or an answer."""

import warnings

import jax
import pytest
from fuzz import ANSWERS, CALLS, cases


@pytest.mark.parametrize("name", CALLS)
def test_sound_calls_answer(name):
    call = CALLS[name]
    call.function(**call.arguments)


def failures(count):
    """Cases that end in another error, or in an answer that is not finite."""
    found = []
    with jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in cases(count):
            try:
                case.run()
            except ANSWERS as error:
                if not str(error):
                    found.append((case, "no message"))
            except Exception as error:
                found.append((case, repr(error)[:200]))
    return found


@pytest.mark.usefixtures("without_type_checks")
def test_a_sample():
    assert not failures(300)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("without_type_checks")
def test_ten_thousand():
    assert not failures(10_000)
