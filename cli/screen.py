"""What rich prints through: nothing that a file or a name holds may move the cursor."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from ..sae.common.text import visible_lines

_WIDTH_OF_A_FILE = 110


class Screen(Console):
    """A console that writes out every hidden character of what it is given; line breaks stay."""

    def __init__(self, *, stderr: bool) -> None:
        # Markup would eat brackets in paths.
        super().__init__(stderr=stderr, markup=False, highlight=False, emoji=False)
        # A file or a pipe has no width of its own.
        if not self.is_terminal:
            self.width = _WIDTH_OF_A_FILE
            self.soft_wrap = True

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as rich does, with plainly visible text between its own control codes."""
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                segment = Segment(visible_lines(segment.text), segment.style)
            yield segment
