"""Where tiles are. That every small object is whole in one: tests/models/test_views.py."""

from fasterrcnn import tile_grid


def test_tiles_cover_the_image_and_the_last_ones_share_more():
    assert tile_grid.starts(100, 50, 10) == [0, 40, 50]
    assert tile_grid.starts(50, 50, 10) == tile_grid.starts(20, 50, 10) == [0]
    assert tile_grid.tiles(30, 90, 50, 10) == [(0, 0, 50, 30), (40, 0, 90, 30)]
    assert tile_grid.shared_px(1024, 0.2) == 205
