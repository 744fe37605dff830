"""The ways out of a run folder: a page to look at it, exports, the hub, trackers. Nothing here trains.

Start with `contents`: what of a run is shown; `page` makes one file of it, `following` serves it while a run goes on.
`export` makes folders for other programs, of `merging` and `gguf_file`; `checking` asks them, and `hub` sends them.
`tracking` sends `measurements` to `sinks`.
"""
