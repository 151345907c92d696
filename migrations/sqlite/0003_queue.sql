-- What is due at one time goes by its rowid, as the claim's index has it: a claim goes on behind the last message of the one before it, however
-- many share a due time. This is the rowid of the last message on the sheet; of one that an older build wrote, one after all others.
ALTER TABLE {sheet} ADD COLUMN last_row INTEGER NOT NULL DEFAULT 9223372036854775807;
