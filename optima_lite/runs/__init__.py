"""The run folder, and what is told of it: stored records, progress, reports. No torch.

Start with `store`: what a run leaves behind, and how it resumes.
"""
