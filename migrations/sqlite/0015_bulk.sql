-- The words of what is written are gathered in memory, and go to the index as one sorted piece when the transaction ends,
-- or before, when they take up this many bytes. Small pieces are merged again and again: to index 200 000 messages of 170
-- words took 40 seconds of a processor in pieces of one session each, 26 in pieces of the default size of 1 MiB, and 15 in
-- pieces of 16 MiB. What a single append writes is far below any of these.
insert into message_index (message_index, rank) values ('hashsize', 16777216);

-- The schema's number. A database with a higher one is refused by an older Culm.
pragma user_version = 15;
