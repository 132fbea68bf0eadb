"""Further answers: moved views, mean probabilities, and which images they are asked of."""

import jax
import numpy as np
import pytest

import puppet_jax as pj

RNG = np.random.Generator(np.random.PCG64(0))
IMAGES = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)
WEIGHTS = RNG.normal(size=(5, 4, 3, 7)) / 40


def predict(images):
    return np.einsum("bhwc,hwcn->bn", np.asarray(images, np.float64), WEIGHTS)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def moved(images, rows, columns):
    """Pixel by pixel: to a place comes what was `rows` above and `columns` left of it, reflected at the edge."""
    _, height, width, _ = images.shape
    result = np.empty_like(images)
    for i in range(height):
        for j in range(width):
            row, column = abs(i - rows), abs(j - columns)
            row = min(row, 2 * (height - 1) - row)
            column = min(column, 2 * (width - 1) - column)
            result[:, i, j] = images[:, row, column]
    return result


def of_views(images, moves=((1, 1), (-1, -1), (1, -1), (-1, 1)), **settings):
    return pj.average_answers([predict, *pj.moved_views(predict, moves)], images, **settings)


@pytest.mark.parametrize("moves", [((1, 1), (-1, -1), (1, -1), (-1, 1)), ((0, 3), (-2, 0)), ()])
def test_moved_views_are_averaged(moves):
    logits, num_answers = of_views(IMAGES, moves)
    views = [softmax(predict(moved(IMAGES, *move))) for move in ((0, 0), *moves)]
    np.testing.assert_allclose(np.exp(logits), np.mean(views, axis=0), rtol=1e-4, atol=1e-7)
    assert logits.dtype == np.float32
    assert num_answers.tolist() == [1 + len(moves)] * 6


def test_diagonal_moves_are_the_default():
    views = [view(IMAGES) for view in pj.moved_views(predict)]
    expected = [predict(moved(IMAGES, rows, columns)) for rows, columns in ((1, 1), (-1, -1), (1, -1), (-1, 1))]
    np.testing.assert_allclose(views, expected)


def test_others_are_asked_of_the_images_in_doubt_alone():
    doubts = np.asarray(pj.doubt(predict(IMAGES)))
    threshold = float(np.sort(doubts)[3])  # two are above it
    asked = []

    def other(images):
        asked.append(len(images))
        return predict(255 - images)

    logits, num_answers = pj.average_answers([predict, other], IMAGES, threshold=threshold)
    unsure = doubts > threshold
    assert asked == [2]
    np.testing.assert_array_equal(num_answers, np.where(unsure, 2, 1))
    both = (softmax(predict(IMAGES)) + softmax(predict(255 - IMAGES))) / 2
    np.testing.assert_allclose(np.exp(logits[unsure]), both[unsure], rtol=1e-4)
    np.testing.assert_allclose(np.exp(logits[~unsure]), softmax(predict(IMAGES))[~unsure], rtol=1e-4)


def test_known_logits_are_not_asked_for_again():
    def never(images):
        raise AssertionError

    known = predict(IMAGES)
    logits, _ = pj.average_answers([never, predict], IMAGES, logits=known)
    np.testing.assert_allclose(np.exp(logits), softmax(known), rtol=1e-4)
    np.testing.assert_array_equal(known, predict(IMAGES))  # left as they were


def test_nobody_in_doubt():
    logits, num_answers = of_views(IMAGES, threshold=1.0)
    np.testing.assert_allclose(np.exp(logits), softmax(predict(IMAGES)), rtol=1e-4)
    assert num_answers.tolist() == [1] * 6


def test_a_class_that_nobody_thinks_possible_stays_finite():
    logits, _ = pj.average_answers([lambda images: np.tile([0.0, -1e4], (len(images), 1))] * 2, IMAGES)
    np.testing.assert_allclose(logits, np.tile([0.0, -1e4], (6, 1)), atol=1e-6)


def test_the_predictor_of_a_puppet():
    puppet = pj.Puppet(channels=(4, 8), mirror=True)
    params = pj.init_puppet(jax.random.key(1), puppet, pj.init_puppeteer(jax.random.key(0), 8), max_depth=4)
    predictor = pj.Predictor(puppet, params, {4: pj.init_batch_stats(puppet, 4)})
    images = RNG.integers(0, 256, (3, 8, 8, 3), np.uint8)
    views = [softmax(predictor(moved(images, *move))) for move in ((0, 0), (1, 1), (-1, 0))]
    logits, _ = pj.average_answers([predictor, *pj.moved_views(predictor, [(1, 1), (-1, 0)])], images)
    np.testing.assert_allclose(np.exp(logits), np.mean(views, axis=0), rtol=1e-4)


@pytest.mark.parametrize("move", [(5, 0), (0, -4)])
def test_refuse_a_move_out_of_the_image(move):
    with pytest.raises(ValueError, match=r"images of 5 x 4 pixels cannot be moved by \("):
        of_views(IMAGES, (move,))


@pytest.mark.parametrize(
    ("images", "message"), [(IMAGES[0], "4 axes"), (np.full((1, 4, 4, 3), np.nan, np.float32), "no NaN")]
)
def test_refuse_bad_images(images, message):
    with pytest.raises(ValueError, match=message):
        of_views(images)


def test_refuse_nobody_to_ask():
    with pytest.raises(ValueError, match="at least one, got none"):
        pj.average_answers([], IMAGES)
