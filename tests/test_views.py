"""Views: moved images, mean probabilities, and who gets them."""

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


@pytest.mark.parametrize("moves", [((1, 1), (-1, -1), (1, -1), (-1, 1)), ((0, 3), (-2, 0)), ()])
def test_are_the_mean_of_the_probabilities(moves):
    logits, num_views = pj.average_views(predict, IMAGES, moves)
    views = [softmax(predict(moved(IMAGES, *move))) for move in ((0, 0), *moves)]
    np.testing.assert_allclose(np.exp(logits), np.mean(views, axis=0), rtol=1e-4, atol=1e-7)
    assert logits.dtype == np.float32
    assert num_views.tolist() == [1 + len(moves)] * 6


def test_go_to_the_images_in_doubt_alone():
    doubts = np.asarray(pj.doubt(predict(IMAGES)))
    threshold = float(np.sort(doubts)[3])  # two are above it
    asked = []

    def noted(images):
        asked.append(len(images))
        return predict(images)

    logits, num_views = pj.average_views(noted, IMAGES, threshold=threshold)
    everywhere, _ = pj.average_views(predict, IMAGES)
    unsure = doubts > threshold
    assert asked == [6, 2, 2, 2, 2]
    np.testing.assert_array_equal(num_views, np.where(unsure, 5, 1))
    np.testing.assert_allclose(logits[unsure], everywhere[unsure], rtol=1e-6)
    np.testing.assert_allclose(np.exp(logits[~unsure]), softmax(predict(IMAGES))[~unsure], rtol=1e-4)
    known, _ = pj.average_views(noted, IMAGES, threshold=threshold, logits=predict(IMAGES))
    assert asked[5:] == [2, 2, 2, 2]
    np.testing.assert_array_equal(known, logits)


def test_of_nobody():
    logits, num_views = pj.average_views(predict, IMAGES, threshold=1.0)
    np.testing.assert_allclose(np.exp(logits), softmax(predict(IMAGES)), rtol=1e-4)
    assert num_views.tolist() == [1] * 6


def test_a_class_that_no_view_thinks_possible_stays_finite():
    logits, _ = pj.average_views(lambda images: np.tile([0.0, -1e4], (len(images), 1)), IMAGES)
    assert np.isfinite(logits).all()


def test_the_predictor_of_a_puppet():
    puppet = pj.Puppet(channels=(4, 8), mirror=True)
    params = pj.init_puppet(jax.random.key(1), puppet, pj.init_puppeteer(jax.random.key(0), 8), max_depth=4)
    predictor = pj.Predictor(puppet, params, {4: pj.init_batch_stats(puppet, 4)})
    images = RNG.integers(0, 256, (3, 8, 8, 3), np.uint8)
    views = [softmax(predictor(moved(images, *move))) for move in ((0, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))]
    np.testing.assert_allclose(np.exp(pj.average_views(predictor, images)[0]), np.mean(views, axis=0), rtol=1e-4)


@pytest.mark.parametrize(
    ("images", "moves", "message"),
    [
        (IMAGES, ((4, 0),), r"images of 5 x 4 pixels cannot be moved by 4"),
        (IMAGES[0], ((1, 1),), "4 axes"),
        (np.full((1, 4, 4, 3), np.nan, np.float32), ((1, 1),), "no NaN"),
    ],
)
def test_refuse_bad_input(images, moves, message):
    with pytest.raises(ValueError, match=message):
        pj.average_views(predict, images, moves)
