"""Pure policy: what is known goes in, a decision with its reasons comes out. No Redis, no Celery, no clock, no global
random.
"""
