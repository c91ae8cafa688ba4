"""Collection and live use: what generates tokens, and controllers that steer it.

`engines` has the engines, `live.run` answers questions with one.
"""
