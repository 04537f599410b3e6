"""The comparison page without a browser: its data, its images, and what protects it from odd names."""

import base64
import hashlib
import html
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from framer_jax.evaluation.comparison_page.build import SCRIPTS, content_policy, page_parts, safe_json, write_page
from framer_jax.evaluation.comparison_page.data import PageSettings, page_data, source_labels
from framer_jax.evaluation.comparison_page.embed import (
    ENCODINGS,
    check_expected,
    choose_encoding,
    embed_images,
    expected_bytes,
)
from framer_jax.evaluation.image_sets import Method, collect_images
from framer_jax.evaluation.method_scores import score_methods
from framer_jax.evaluation.scoring import ScoreSettings
from tests.support.results import result_folders

LARGE = 1e9
METRICS = ("psnr-y", "ssim-y")
HOSTILE = ("</script><img src=x onerror=alert(1)>", "\u2028'\"&amp;{{data}}", "字 émoji 😀")


@pytest.fixture(scope="module")
def image_set(tmp_path_factory):
    folders = result_folders(tmp_path_factory.mktemp("results"))
    methods = [Method(label, folders[name]) for label, name in zip(HOSTILE, ("good", "bad"), strict=False)]
    return collect_images(methods, folders["gt"], folders["lr"])


@pytest.fixture(scope="module")
def arms(image_set):
    return score_methods(image_set, ScoreSettings(METRICS), lambda count: None)[0]


@pytest.fixture(scope="module")
def embedded(image_set):
    return embed_images(image_set, "png", LARGE)


def decoded(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_the_data_has_scores_means_and_differences(image_set, arms, embedded):
    data = page_data(image_set, embedded, arms, METRICS, PageSettings("T"))
    assert data["sources"] == [*HOSTILE[:2], "reference", "LR, nearest"] == source_labels(image_set)
    assert (data["methods"], data["lr"], data["mime"]) == (2, True, "image/png")
    assert [(metric["id"], metric["higher"], metric["digits"]) for metric in data["metrics"]] == [
        ("psnr-y", True, 2),
        ("ssim-y", True, 4),
    ]
    image = data["images"][2]
    assert (image["name"], image["width"], image["height"]) == ("c", 64, 48)
    assert image["scores"] == [[arm.scores(metric)["c"] for arm in arms] for metric in METRICS]
    assert data["images"][1]["crop"] == [14, 4, 16]  # the first square that holds all that differs
    mean = data["summary"][0][0]
    assert mean["mean"] == pytest.approx(np.mean(list(arms[0].scores("psnr-y").values())))
    assert mean["low"] <= mean["mean"] <= mean["high"] and mean["images"] == 3
    difference = data["differences"][0][0]
    assert (difference["better"], difference["worse"], difference["images"]) == (0, 3, 3) and difference["mean"] < 0
    facts = dict(data["facts"])
    assert facts["Crop"] == "images whole, no border ignored"
    assert "BT.601" in facts["psnr-y"] and "higher is better" in facts["psnr-y"]
    assert facts["Images in this page"] == "PNG, lossless, 8 bits per channel"
    assert json.loads(json.dumps(data, allow_nan=False)) == json.loads(safe_json(data))


def test_missing_scores_are_null_and_nothing_is_required(image_set, arms, embedded):
    file = arms[1].files[0]
    scores = {metric: {name: value for name, value in of.items() if name != "c"} for metric, of in file.scores.items()}
    partial = (arms[0], arms[1]._replace(files=(file._replace(scores=scores),)))
    data = page_data(image_set, embedded, partial, METRICS, PageSettings("T"))
    assert data["images"][2]["scores"][0][1] is None and data["differences"][0][0]["images"] == 2
    single = image_set._replace(images=image_set.images[:1])
    lone = page_data(single, embedded[:1], arms, METRICS, PageSettings("T"))
    assert lone["images"][0]["name"] == "a" and lone["summary"][0][0]["images"] == 3
    none = page_data(image_set, embedded, (), (), PageSettings("T", "webp", 32))
    assert none["metrics"] == none["summary"] == none["differences"] == [] and none["images"][0]["scores"] == []
    assert dict(none["facts"])["Images in this page"].startswith("WebP, quality 92; longer sides reduced to 32 pixels")


def test_images_are_embedded_with_the_pixels_that_are_scored(image_set, embedded):
    for image, entry in zip(image_set.images, embedded, strict=True):
        for text, file in zip(entry.sources, [*image.files, image.reference, image.lr], strict=True):
            assert (np.asarray(decoded(text)) == np.asarray(Image.open(file))).all()
        assert decoded(entry.thumbnail).format == "WEBP" and max(decoded(entry.thumbnail).size) == 64
        assert entry.crop.size == 16


def test_images_are_reduced_alike(image_set):
    entry = embed_images(image_set, "jpeg", LARGE, max_side=32)[0]
    assert [decoded(text).size for text in entry.sources] == [(32, 24), (32, 24), (32, 24), (16, 12)]
    assert {decoded(text).format for text in entry.sources} == {"JPEG"}


def test_sizes_are_expected_and_limited(image_set, embedded):
    actual = sum(len(text) for entry in embedded for text in entry.sources)
    assert expected_bytes(image_set, "png") == pytest.approx(actual, rel=0.2)
    for encoding, side in (("png", 32), ("webp", None), ("jpeg", 20)):
        texts = [text for entry in embed_images(image_set, encoding, LARGE, side) for text in entry.sources]
        assert expected_bytes(image_set, encoding, side) == pytest.approx(sum(map(len, texts)), rel=0.1)
    assert choose_encoding(image_set, LARGE) == "png" and choose_encoding(image_set, 1000) == "webp"
    with pytest.raises(
        ValueError, match=r"more than --max-megabytes 0\.001: add --encoding webp, --limit N or --max-side N"
    ):
        check_expected(image_set, "png", 1000)
    with pytest.raises(ValueError, match="add --limit N or --max-side N, or raise --max-megabytes"):
        embed_images(image_set, "webp", 100)


@pytest.mark.parametrize("text", [*HOSTILE, "<!--", "\udce9", "]]>", "\\"])
def test_json_is_safe_in_a_script_element(text):
    written = safe_json({text: [text]})
    assert written.isascii() and not set("<>&") & set(written)
    assert json.loads(written) == {text: [text]}


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        safe_json([float("nan")])


def test_the_policy_admits_this_script_and_style_only(image_set, arms, embedded):
    data = page_data(image_set, embedded, arms, METRICS, PageSettings(HOSTILE[0] + HOSTILE[1]))
    page = "".join(page_parts(data, embedded))
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1))
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy and "http" not in policy
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    for kind, text in (("style", style), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy == content_policy(style, script)


def test_the_page_is_one_file_that_loads_nothing(image_set, arms, embedded, tmp_path):
    data = page_data(image_set, embedded, arms, METRICS, PageSettings(HOSTILE[0] + HOSTILE[1]))
    size = write_page(tmp_path / "page.html", data, embedded)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert size == (tmp_path / "page.html").stat().st_size
    text = re.sub(r"[A-Za-z0-9+/=]{60,}", "", page)  # without the images
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bsrc=[^x]", text.replace(html.escape(HOSTILE[0]), ""))
    assert page.count("<script") == len(SCRIPTS[:1]) + 1 + 3 * 4 and "onerror=alert(1)>" not in page
    assert json.loads(re.search(r'id="page-data">(.*?)</script>', page, re.DOTALL).group(1)) == json.loads(
        safe_json(data)
    )
    assert "{{" not in page.replace(html.escape(HOSTILE[1]), "").replace(safe_json(HOSTILE[1])[1:-1], "")
    assert f'<script type="text/plain" id="image-2-3">{embedded[2].sources[3]}</script>' in page


def test_every_encoding_has_a_name_that_pillow_knows():
    for encoding in ENCODINGS.values():
        assert Image.MIME.get(encoding.name, encoding.mime) == encoding.mime
