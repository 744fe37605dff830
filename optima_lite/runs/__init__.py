"""The run folder, and what is told of it: stored records, plain numbers, progress, reports. No torch.

Start with `folder`: what a run leaves behind. Then `store` writes it, and `manifest` says what may resume.
`evaluations`, `steps` and `summary` read numbers from it; the files whose names end in `_view` draw them, and `report`
puts the pictures together.
"""
