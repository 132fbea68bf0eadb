"""Ensembles and shifted views: mean probabilities, and which images all predictors see."""

import jax
import numpy as np
import pytest
from helpers import compilations

import puppet_jax as pj
from puppet_jax import extras

RNG = np.random.Generator(np.random.PCG64(0))
IMAGES = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)
WEIGHTS = RNG.normal(size=(5, 4, 3, 7)) / 40


def predict(images):
    return np.einsum("bhwc,hwcn->bn", np.asarray(images, np.float64), WEIGHTS)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def shifted(images, rows, columns):
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


def of_views(images, shifts=((1, 1), (-1, -1), (1, -1), (-1, 1)), **settings):
    return extras.ensemble([predict, *extras.shifted_views(predict, shifts)], images, **settings)


@pytest.mark.parametrize("shifts", [((1, 1), (-1, -1), (1, -1), (-1, 1)), ((0, 3), (-2, 0)), ()])
def test_shifted_views_are_averaged(shifts):
    logits, num_predictors = of_views(IMAGES, shifts)
    views = [softmax(predict(shifted(IMAGES, *shift))) for shift in ((0, 0), *shifts)]
    np.testing.assert_allclose(np.exp(logits), np.mean(views, axis=0), rtol=1e-4, atol=1e-7)
    assert logits.dtype == np.float32
    assert num_predictors.tolist() == [1 + len(shifts)] * 6


def test_diagonal_shifts_are_the_default():
    views = [view(IMAGES) for view in extras.shifted_views(predict)]
    expected = [predict(shifted(IMAGES, rows, columns)) for rows, columns in ((1, 1), (-1, -1), (1, -1), (-1, 1))]
    np.testing.assert_allclose(views, expected)


def test_others_see_the_uncertain_images_alone():
    confidences = np.asarray(extras.confidence(predict(IMAGES)))
    threshold = float(np.sort(confidences)[2])  # two are below it
    asked = []

    def other(images):
        asked.append(len(images))
        return predict(255 - images)

    logits, num_predictors = extras.ensemble([predict, other], IMAGES, threshold=threshold)
    unsure = confidences < threshold
    assert asked == [2]
    np.testing.assert_array_equal(num_predictors, np.where(unsure, 2, 1))
    both = (softmax(predict(IMAGES)) + softmax(predict(255 - IMAGES))) / 2
    np.testing.assert_allclose(np.exp(logits[unsure]), both[unsure], rtol=1e-4)
    np.testing.assert_allclose(np.exp(logits[~unsure]), softmax(predict(IMAGES))[~unsure], rtol=1e-4)


def test_known_logits_are_not_asked_for_again():
    def never(images):
        raise AssertionError

    known = predict(IMAGES)
    logits, _ = extras.ensemble([never, predict], IMAGES, logits=known)
    np.testing.assert_allclose(np.exp(logits), softmax(known), rtol=1e-4)
    np.testing.assert_array_equal(known, predict(IMAGES))  # left as they were


@pytest.mark.parametrize("given", [predict(IMAGES[:5]), predict(IMAGES)[0], predict(IMAGES)[None]])
def test_refuse_logits_of_other_images(given):
    with pytest.raises(ValueError, match=r"logits must have shape \(6, classes\) for 6 images, got \("):
        extras.ensemble([predict, predict], IMAGES, logits=given)


def test_refuse_an_answer_to_other_images():
    with pytest.raises(ValueError, match=r"shape \(6, classes\) for 6 images, got \(1, 7\)"):
        extras.ensemble([predict, lambda images: predict(images[:1])], IMAGES)


def test_no_program_is_compiled_for_each_number_of_uncertain_images():
    confidences = np.sort(np.asarray(extras.confidence(predict(IMAGES))))
    of_views(IMAGES, threshold=float(confidences[1]))
    with compilations() as compiled:
        for threshold in confidences[2:]:
            of_views(IMAGES, threshold=float(threshold))
    assert compiled == []


def test_confident_of_all():
    logits, num_predictors = of_views(IMAGES, threshold=0.0)
    np.testing.assert_allclose(np.exp(logits), softmax(predict(IMAGES)), rtol=1e-4)
    assert num_predictors.tolist() == [1] * 6


def test_a_class_that_nobody_thinks_possible_stays_finite():
    logits, _ = extras.ensemble([lambda images: np.tile([0.0, -1e4], (len(images), 1))] * 2, IMAGES)
    np.testing.assert_allclose(logits, np.tile([0.0, -1e4], (6, 1)), atol=1e-6)


def test_the_predictor_of_a_puppet():
    puppet = pj.Puppet(channels=(4, 8), mirror=True)
    params = pj.init_puppet(jax.random.key(1), puppet, pj.init_puppeteer(jax.random.key(0), 8), max_depth=4)
    predictor = pj.Predictor(puppet, params, {4: pj.init_batch_stats(puppet, 4)})
    images = RNG.integers(0, 256, (3, 8, 8, 3), np.uint8)
    views = [softmax(predictor(shifted(images, *shift))) for shift in ((0, 0), (1, 1), (-1, 0))]
    logits, _ = extras.ensemble([predictor, *extras.shifted_views(predictor, [(1, 1), (-1, 0)])], images)
    np.testing.assert_allclose(np.exp(logits), np.mean(views, axis=0), rtol=1e-4)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("shift", [(5, 0), (0, -4)])
def test_refuse_a_shift_out_of_the_image(shift):
    with pytest.raises(ValueError, match=r"images of 5 x 4 pixels cannot be shifted by \("):
        of_views(IMAGES, (shift,))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("images", "message"), [(IMAGES[0], "4 axes"), (np.full((1, 4, 4, 3), np.nan, np.float32), "no NaN")]
)
def test_refuse_bad_images(images, message):
    with pytest.raises(ValueError, match=message):
        of_views(images)


@pytest.mark.usefixtures("without_type_checks")
def test_refuse_nobody_to_ask():
    with pytest.raises(ValueError, match="at least one, got none"):
        extras.ensemble([], IMAGES)
