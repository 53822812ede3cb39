"""Webhooks by the rules of https://www.standardwebhooks.com: signed, retried for a day, to public addresses only."""
