-- What a batch holds, so that another one under its id is refused; none in rows from before. Rows that have it begin their
-- `batch_id` with the sender: `user:ada/b1`.
ALTER TABLE batch ADD COLUMN digest $bytes;
