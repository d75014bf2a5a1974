-- The words of what is written are gathered in memory, and go to the index as one sorted piece when the transaction ends,
-- or before, when they take up this many bytes. Pieces are merged later, again and again while they are small: an import
-- of 200 000 messages of 170 words spent two thirds of its time on pieces of one session each, and still a third on pieces
-- of the default size of 1 MiB. What a single append writes is far below either.
insert into message_index (message_index, rank) values ('hashsize', 16777216);

-- The schema's number. A database with a higher one is refused by an older Culm.
pragma user_version = 15;
