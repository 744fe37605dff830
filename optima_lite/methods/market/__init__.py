"""EoM (arXiv 2606.02859): agents bid for the right to act, pay who acted before, and live or die by what comes of it.

Start with `loop`. Pure parts: `settings.agents` (who bids), `team.auction`, `team.ledger`, `team.environment` (what is
said), `evolution` (who is born) and `episode` (all of it, in order); none of them knows a model.
"""
