"""The section on spectra: a small picture for each layer, with the rank at which it is cut."""

from __future__ import annotations

from .._report.html.parts import Section, SmallPicture, SmallPictures, Text
from ..tensor_decompose.plan.spectra import LayerSpectrum, SpectraReport, spectrum_figure
from .numbers import percent
from .words import Words

# Pictures that a reader may look through, and that keep the page small; the numbers of all layers are in its data.
_MOST_PICTURES = 48


def spectra_section(spectra: SpectraReport, words: Words) -> Section:
    """Small pictures of the layers whose spectra leave out the most.

    Parameters
    ----------
    spectra
        Those of the layers that are decomposed.
    words
        The language.
    """
    layers = spectra.layers
    if len(layers) > _MOST_PICTURES:
        most = sorted(layers, key=_left_out, reverse=True)[:_MOST_PICTURES]
        layers = tuple(layer for layer in layers if layer in most)
    text = words["spectra_text"]
    if len(layers) < len(spectra.layers):
        text += " " + words["spectra_shown"].format(shown=len(layers), all=len(spectra.layers))
    return Section(
        "spectra", words["spectra"], (Text(text), SmallPictures(tuple(_picture(one, words) for one in layers)))
    )


def _left_out(layer: LayerSpectrum) -> float:
    return sum(one.left_out for one in layer.ranks)


def _picture(layer: LayerSpectrum, words: Words) -> SmallPicture:
    ranks = words["semicolon"].join(
        words["spectrum_rank"].format(rank=one.rank, full=one.full_rank, left_out=percent(one.left_out))
        for one in layer.ranks
    )
    caption = words["spectrum_caption"].format(method=layer.method, ranks=ranks)
    return SmallPicture(spectrum_figure(layer), layer.name or words["the_model"], caption)
