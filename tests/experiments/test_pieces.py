"""Networks of which an image runs through some pieces: what is computed, by the operations that are carried out."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import puppet_jax as pj
from experiments.config import DRNN, BranchyNet, SkipNet
from experiments.evaluation.sweep import sweep, table
from experiments.model import Model
from experiments.networks.baselines.drnn import LoopNorm
from experiments.networks.baselines.pieces import warn_of_dead_gates
from experiments.networks.contract import answers_of
from experiments.networks.macs import count_macs

pytestmark = pytest.mark.slow  # many programs are compiled
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
CONFIGS = {"BranchyNet": BranchyNet(width=64), "SkipNet": SkipNet(width=8), "DRNN": DRNN(width=8, num_loops=2)}


@functools.cache
def made(name):
    """A network with random parameters, and the statistics of the images in a batch."""
    network = CONFIGS[name].make(10, IMAGES.shape[1:])
    rng = np.random.default_rng(1)
    like = jax.eval_shape(lambda: network.init(0, (network.depth,)))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.3, leaf.shape), jnp.float32), like)
    for classifier in [one for one in params if one.endswith("classifier.kernel")]:
        params[classifier] *= 0.01  # so that entropies are not all the same
    stats = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), network.init_stats(0))
    return network, params, stats


def gates_at(params, value):
    """The parameters, with gates that always say one thing."""
    forced = dict(params)
    for name in params:
        if name.endswith("decide.kernel"):
            forced[name] = jnp.zeros_like(params[name])
        if name.endswith("decide.bias"):
            forced[name] = jnp.asarray([-value, value] if params[name].size == 2 else [value], jnp.float32)
    return forced


def run_macs(network, params, stats, run):
    """Multiply-accumulates of what was carried out, from the program of each call at the size that was computed."""
    total = 0
    shapes = {}
    for piece, size in run.calls:
        shapes[piece, size] = shapes.get((piece, size), 0) + 1
    for (piece, size), times in shapes.items():
        x = jax.ShapeDtypeStruct((size, *run.shapes[piece]), jnp.float32)
        one = count_macs(
            lambda params, x, piece=piece: network.run_piece(network.model(params, stats), piece, x), params, x
        )
        total += times * one
    return total


GATED = ("SkipNet", "DRNN")


class TestGates:
    @pytest.mark.parametrize("name", GATED)
    def test_open_gates_compute_what_training_computes(self, name):
        """With statistics of evaluation, image by image what the whole network gives, every piece computed."""
        network, params, stats = made(name)
        params = gates_at(params, 9.0)
        trace = network.predictor(params, {network.depth: stats}).trace(IMAGES)
        outputs, _ = jax.jit(lambda params, images: network.apply(params, stats, images, None, network.depth))(
            params, IMAGES
        )
        np.testing.assert_allclose(trace.logits, outputs.logits, rtol=1e-3, atol=1e-3)
        decided = [list(network.pieces).index(piece) for piece in network.decided]
        assert trace.executed[:, decided].all()
        assert set(trace.depths.tolist()) == {network.depth}
        assert len(set(trace.macs.tolist())) == 1

    @pytest.mark.parametrize("name", GATED)
    def test_shut_gates_compute_less(self, name):
        network, params, stats = made(name)
        shut, opened = (network.predictor(gates_at(params, value), {network.depth: stats}) for value in (-9.0, 9.0))
        runs = []
        for predictor in (shut, opened):
            run = predictor.start(len(IMAGES))
            network.answer(run, IMAGES, {})
            runs.append(run)
        called = [{piece for piece, _ in run.calls} for run in runs]
        assert not called[0] & set(network.decided)  # not computed at all, for no image
        assert set(network.decided) <= called[1]
        carried_out = [run_macs(network, params, stats, run) for run in runs]
        assert carried_out[0] < 0.7 * carried_out[1]
        with pytest.warns(UserWarning, match=r"of 6 images none ran through .*never opens"):
            warn_of_dead_gates(network, runs[0].executed)

    @pytest.mark.parametrize("name", GATED)
    def test_an_image_does_not_depend_on_its_batch(self, name):
        network, params, stats = made(name)
        predictor = network.predictor(params, {network.depth: stats})
        together, alone = predictor.trace(IMAGES), predictor.trace(IMAGES[2:3])
        np.testing.assert_allclose(together.logits[2:3], alone.logits, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(together.executed[2:3], alone.executed)
        assert (together.macs[2], together.depths[2]) == (alone.macs[0], alone.depths[0])


class TestExits:
    @pytest.fixture
    def predictor(self):
        network, params, stats = made("BranchyNet")
        return network.predictor(params, {network.depth: stats})

    def test_images_that_leave_are_not_computed_further(self, predictor):
        """Of six images some leave at each exit; the trunk goes on with the others alone."""
        exits = predictor.exits(IMAGES)
        thresholds = predictor.choose(exits, 0.5)
        logits = answers_of(exits, predictor.leave(exits, thresholds))
        network = predictor.network
        leaving = network.predictor(predictor.params, {6: predictor.stats}, threshold=thresholds)
        run = leaving.start(len(IMAGES))
        np.testing.assert_allclose(network.answer(run, IMAGES, leaving.settings), logits, rtol=1e-4, atol=1e-4)
        sizes = {name: [size for piece, size in run.calls if piece == name] for name in network.pieces}
        assert sizes["trunk 1"] == [4, 1, 1]  # on a CPU without much padding
        assert sizes["trunk 2"] == [4]
        counts = run.executed.sum(axis=0)
        names = list(network.pieces)
        assert counts[names.index("trunk 2")] == counts[names.index("exit 2")] == 3
        assert counts[names.index("trunk 3")] < 3
        trace = leaving.trace(IMAGES)
        taken = predictor.leave(exits, thresholds)
        np.testing.assert_array_equal(trace.macs, predictor.exit_macs()[taken])
        easy = trace.depths == 1
        assert trace.macs[easy].max() < trace.macs[~easy].min()

    def test_sweep(self, predictor):
        """The more images are sent on, the more each costs; what leaves where is what the predictor does."""
        network = predictor.network
        model = Model(
            network=network,
            params=predictor.params,
            batch_stats={6: predictor.stats},
            class_names=tuple("0123456789"),
            adaptation="level",
            num_levels=1,
            complexity=pj.CalibratedComplexity(0.0, 1.0),
            step=1,
            threshold=(0.1, 0.1),
        )
        rows = sweep(model, IMAGES, (IMAGES, np.arange(6)), fractions=(0.2, 0.5, 0.9))
        costs = [row["network_macs"] for row in rows]
        assert costs == sorted(costs)
        assert costs[0] < costs[-1]
        for row in rows:
            trace = network.predictor(predictor.params, {6: predictor.stats}, threshold=row["threshold"]).trace(IMAGES)
            assert trace.macs.mean() == pytest.approx(row["network_macs"])
            assert (trace.logits.argmax(axis=1) == np.arange(6)).mean() == pytest.approx(row["top1"])
        lines = table(rows).splitlines()
        assert (len(lines), lines[2].split("|")[1].strip()) == (5, "0.2")

    def test_exits_are_those_of_the_whole_network(self, predictor):
        network, stats = predictor.network, predictor.stats
        apply = jax.jit(lambda params, images: network.apply(params, stats, images, None, 6)[0])
        np.testing.assert_allclose(
            predictor.exits(IMAGES), np.stack(apply(predictor.params, IMAGES)), rtol=1e-3, atol=1e-3
        )

    def test_an_exit_that_nobody_passes(self, predictor):
        network = predictor.network
        everyone = network.predictor(predictor.params, {6: predictor.stats}, threshold=(2.3025, 2.3025))
        trace = everyone.trace(IMAGES)
        assert set(trace.depths.tolist()) == {1}
        with pytest.warns(UserWarning, match="of 6 images none ran through trunk 2, trunk 3"):
            warn_of_dead_gates(network, trace.executed)
        nobody = network.predictor(predictor.params, {6: predictor.stats}, threshold=(0.0, 0.0))
        assert set(nobody.trace(IMAGES).depths.tolist()) == {6}


def test_norm_of_a_loop():
    """Its moments are those of the images that are left; where nobody is, nothing is NaN."""
    norm = LoopNorm(3, 2, True, nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 2, 3)), jnp.float32)
    some = norm(x, 1, jnp.asarray([1.0, 0, 1, 0]))
    left = np.asarray(some)[[0, 2]]
    np.testing.assert_allclose(left.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(left.std(axis=(0, 1, 2)), 1, atol=1e-3)
    assert np.isfinite(norm(x, 1, jnp.zeros(4))).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nnx.state(norm, nnx.BatchStat)))


def test_phases_of_skipnet_share_their_parameters():
    network, params, _ = made("SkipNet")
    second = dataclasses.replace(network, phase="reinforcement")
    apply = jax.jit(lambda key: second.apply(params, None, IMAGES, None, network.depth, key)[0].actions)
    actions = np.stack([apply(jax.random.key(seed)) for seed in range(8)])
    assert 0.05 < actions.mean() < 0.95  # drawn
    assert pj.num_floats(jax.eval_shape(lambda: second.init(0, (1,)))) == pj.num_floats(params)
