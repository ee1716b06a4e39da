"""Colours and fineness that all drawings share."""

# Okabe and Ito's colours, which most colour-blind people tell apart.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (204, 121, 167))
INK, PAPER, PALE = (38, 42, 48), (255, 255, 255), (225, 227, 230)
FINE = 2  # drawn so much larger and then reduced: Pillow's lines are jagged
