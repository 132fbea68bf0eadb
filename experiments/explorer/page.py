"""The page itself: where files, sliders and answers stand. The one file that knows gradio."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

import puppet_jax as pj
from experiments.explorer.answer import NOTHING_YET, answer, opened
from experiments.explorer.images import CREDIT, MAX_MEGABYTES

MAX_H = 5.54
"""The largest complexity of the slider, nats: log 256 is that of an image whose entropies are as large as can be."""
NONE = "none"
"""What is chosen where one model stands alone."""
TITLE = "Puppet-CNN: what an image asks for"


def make_page(names: Sequence[str], examples: Sequence[Path]) -> gr.Blocks:
    """The page, for the models `names`, of which the first two are shown, and those of the package.

    Args:
        names: at least one; all are opened, so that what is wrong with one is said at once.
        examples: image files to choose from.

    Raises:
        UsageError, RunError: if a model cannot be opened.
    """
    for name in names:
        opened(name)
    choices = list(dict.fromkeys([*names, *pj.pretrained_models()]))
    second = names[1] if len(names) > 1 else NONE

    def show(file: str | None, h: float | None, left: str, right: str) -> tuple[Any, ...]:
        own, about, reports = answer(file, h, [left] if right == NONE else [left, right])
        return about, reports[0], reports[1] if len(reports) > 1 else "", gr.skip() if own is None else round(own, 2)

    def show_own(file: str | None, left: str, right: str) -> tuple[Any, ...]:
        about, first, other, own = show(file, None, left, right)
        return about, first, other, own, None

    def show_set(file: str | None, h: float, left: str, right: str) -> tuple[Any, ...]:
        return *show(file, h, left, right)[:3], h

    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}")
        chosen_h = gr.State(None)  # what the slider was moved to, None while the image's own complexity counts
        with gr.Row():
            with gr.Column(scale=2):
                file = gr.File(label=f"an image of at most {MAX_MEGABYTES} MB, or a .npy array", height=150)
            with gr.Column(scale=3):
                gallery = gr.Gallery(
                    [(str(path), path.stem) for path in examples],
                    label="examples",
                    columns=len(examples),
                    height=150,
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    format="png",
                )
        with gr.Row():
            with gr.Column():
                slider = gr.Slider(0, MAX_H, 0, step=0.01, label="complexity H (nats)", elem_id="complexity")
                own_button = gr.Button("the image's own complexity", size="sm")
                with gr.Row():
                    left = gr.Dropdown(choices, value=names[0], label="model")
                    right = gr.Dropdown([NONE, *choices], value=second, label="beside it")
                gr.Markdown(f"<small>{CREDIT}</small>")
            with gr.Column():
                about = gr.HTML(NOTHING_YET, elem_id="about")
        with gr.Row():
            first, other = gr.HTML(elem_id="first"), gr.HTML(elem_id="second")
        shown, inputs = [about, first, other], [file, left, right]
        quiet: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "always_last", "show_progress": "minimal"}
        gr.on([file.change, own_button.click], show_own, inputs, [*shown, slider, chosen_h], **quiet)
        slider.input(show_set, [file, slider, left, right], [*shown, chosen_h], **quiet)
        gr.on([left.change, right.change], lambda *a: show(*a)[:3], [file, chosen_h, left, right], shown, **quiet)

        def choose(event: gr.SelectData) -> str:
            return str(examples[event.index])

        gallery.select(choose, None, file, **quiet)
    return page


def serve(page: gr.Blocks, host: str, port: int | None) -> None:
    """Serves the page until Ctrl-C; nothing is fetched from other servers, nor sent to them."""
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        enable_monitoring=False,
        ssr_mode=False,
        max_file_size=MAX_MEGABYTES * 1_000_000,
        theme=gr.themes.Base(**fonts),  # names alone: others would be fetched
        footer_links=[],
        quiet=True,
        prevent_thread_lock=True,
    )
    print(f"{TITLE}: {address} (Ctrl-C ends it)", flush=True)
    page.block_thread()
