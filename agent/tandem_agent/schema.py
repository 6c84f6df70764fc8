"""The tables of the local state, and how those of an earlier version become today's. SQL only; no rules."""

from __future__ import annotations

SCHEMA = 3
"""Version of the tables, kept in the file's ``user_version``."""

TABLES = """
CREATE TABLE setup (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE journal (n INTEGER PRIMARY KEY, kind TEXT NOT NULL, nonce BLOB NOT NULL, hash BLOB NOT NULL,
                      record BLOB NOT NULL);
CREATE TABLE intent (one INTEGER PRIMARY KEY CHECK (one = 1), n INTEGER NOT NULL, nonce BLOB NOT NULL,
                     parents BLOB NOT NULL, decided INTEGER NOT NULL, backup TEXT NOT NULL);
CREATE TABLE answered (tier BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE live (name BLOB PRIMARY KEY, type TEXT NOT NULL, size INTEGER NOT NULL, added INTEGER NOT NULL,
                   dead BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE keyslots (name BLOB PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE tiers (id BLOB PRIMARY KEY, name TEXT NOT NULL UNIQUE, position INTEGER NOT NULL,
                    identity BLOB NOT NULL, start INTEGER NOT NULL, last_written INTEGER NOT NULL,
                    to_compare INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, since TEXT NOT NULL,
                    floor INTEGER NOT NULL DEFAULT 0, imported INTEGER NOT NULL DEFAULT 1,
                    trouble TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE TABLE missing (tier BLOB NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (tier, n)) WITHOUT ROWID;
CREATE TABLE lacking (tier BLOB NOT NULL, name BLOB NOT NULL, PRIMARY KEY (tier, name)) WITHOUT ROWID;
CREATE TABLE confirmed (n INTEGER NOT NULL, tier BLOB NOT NULL, PRIMARY KEY (n, tier)) WITHOUT ROWID;
CREATE TABLE backups (id BLOB PRIMARY KEY, n INTEGER NOT NULL, name TEXT NOT NULL, info TEXT NOT NULL)
                     WITHOUT ROWID;
CREATE TABLE written_to (n INTEGER NOT NULL, tier BLOB NOT NULL, PRIMARY KEY (n, tier)) WITHOUT ROWID;
CREATE TABLE closed (tier BLOB NOT NULL, n INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (tier, n)) WITHOUT ROWID;
CREATE TABLE ancestors (hash BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE takeover (one INTEGER PRIMARY KEY CHECK (one = 1), repository BLOB NOT NULL, root BLOB NOT NULL,
                       installation BLOB NOT NULL, seed BLOB NOT NULL, certificate BLOB NOT NULL,
                       n INTEGER NOT NULL, nonce BLOB NOT NULL);
CREATE INDEX live_by_revision ON live (added);
CREATE INDEX live_keys ON live (name) WHERE type = 'key';
CREATE INDEX journal_by_kind ON journal (kind);
"""

UPGRADES = {
    1: """
ALTER TABLE tiers ADD COLUMN floor INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tiers ADD COLUMN imported INTEGER NOT NULL DEFAULT 1;
CREATE TABLE written_to (n INTEGER NOT NULL, tier BLOB NOT NULL, PRIMARY KEY (n, tier)) WITHOUT ROWID;
CREATE TABLE closed (tier BLOB NOT NULL, n INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (tier, n)) WITHOUT ROWID;
CREATE TABLE ancestors (hash BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE takeover (one INTEGER PRIMARY KEY CHECK (one = 1), repository BLOB NOT NULL, root BLOB NOT NULL,
                       installation BLOB NOT NULL, seed BLOB NOT NULL, certificate BLOB NOT NULL,
                       n INTEGER NOT NULL, nonce BLOB NOT NULL);
ALTER TABLE backups RENAME TO backups_by_number;
CREATE TABLE backups (id BLOB PRIMARY KEY, n INTEGER NOT NULL, name TEXT NOT NULL, info TEXT NOT NULL)
                     WITHOUT ROWID;
INSERT OR REPLACE INTO backups SELECT id, n, name, info FROM backups_by_number ORDER BY n;
DROP TABLE backups_by_number;
CREATE INDEX live_by_revision ON live (added);
CREATE INDEX live_keys ON live (name) WHERE type = 'key';
CREATE INDEX journal_by_kind ON journal (kind);
""",
    2: """
ALTER TABLE tiers ADD COLUMN trouble TEXT NOT NULL DEFAULT '';
UPDATE tiers SET trouble = reason WHERE state = 'blocked';
""",
}
"""By the version that it starts from: the statements that lead to the next one."""
