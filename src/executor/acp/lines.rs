//! What an agent writes, line by line, each of a bounded length. A longer one is read past, not kept.

use std::io;

use bytes::BytesMut;
use tokio_util::codec::Decoder;

/// Bytes of a line that is too long which are kept, to know what it was.
const HEAD: usize = 4 << 10;

/// Splits bytes into lines.
pub(super) struct Lines {
    most: usize,
    /// Bytes that were looked through for the end of a line.
    scanned: usize,
    /// The beginning of a line that is too long, and how long it is so far.
    head: Vec<u8>,
    dropped: usize,
}

/// A line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Whole(String),
    /// It is longer than a line may be: how it begins.
    TooLong(String),
}

impl Lines {
    /// Lines of at most so many bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { most, scanned: 0, head: Vec::new(), dropped: 0 }
    }

    fn drop_part(&mut self, part: &[u8]) {
        let room = HEAD.saturating_sub(self.head.len()).min(part.len());
        self.head.extend(&part[..room]);
        self.dropped += part.len();
        self.scanned = 0;
    }

    fn end(&mut self, line: &[u8]) -> Line {
        self.scanned = 0;
        if self.dropped == 0 && line.len() <= self.most {
            return Line::Whole(String::from_utf8_lossy(line).into_owned());
        }
        self.drop_part(line);
        self.dropped = 0;
        Line::TooLong(String::from_utf8_lossy(&std::mem::take(&mut self.head)).into_owned())
    }
}

impl Decoder for Lines {
    type Item = Line;
    type Error = io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Line>> {
        if let Some(at) = buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(self.scanned + at + 1);
            return Ok(Some(self.end(&line[..line.len() - 1])));
        }
        self.scanned = buffer.len();
        if buffer.len() > self.most {
            let part = buffer.split();
            self.drop_part(&part);
        }
        Ok(None)
    }

    fn decode_eof(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Line>> {
        if let Some(line) = self.decode(buffer)? {
            return Ok(Some(line));
        }
        let left = buffer.split();
        let nothing = left.is_empty() && self.dropped == 0;
        Ok((!nothing).then(|| self.end(&left)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_costs_no_other_line() {
        let text = format!("one\n{{\"a\":{}}}\n\ntwo\r\n{}", "x".repeat(50), "y".repeat(12));
        for step in [1, 3, 7, 1000] {
            let (mut lines, mut buffer, mut found) = (Lines::new(10), BytesMut::new(), Vec::new());
            for part in text.as_bytes().chunks(step) {
                buffer.extend_from_slice(part);
                while let Some(line) = lines.decode(&mut buffer).unwrap() {
                    found.push(line);
                }
                assert!(buffer.len() <= 10, "it keeps {} bytes", buffer.len());
            }
            found.extend(lines.decode_eof(&mut buffer).unwrap());
            let whole = |text: &str| Line::Whole(text.into());
            let long = |line: &Line, begins: &str| matches!(line, Line::TooLong(head) if head.starts_with(begins));
            assert_eq!((&found[0], &found[2], &found[3]), (&whole("one"), &whole(""), &whole("two\r")), "{step}");
            assert!(long(&found[1], "{\"a\":x") && long(&found[4], "yyy") && found.len() == 5, "{found:?}");
        }
    }
}
