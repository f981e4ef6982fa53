//! Server-sent events (WHATWG HTML, "Server-sent events"), incrementally and with a size limit.
//!
//! Invariant: memory is bounded by [`MAX_EVENT_BYTES`], whatever arrives.

/// Longest event, all its lines together, bytes.
pub(super) const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// One event that has data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SseEvent {
    /// Its `event:` name; empty when it has none.
    pub(super) name: String,
    /// Its `data:` lines, joined by newlines.
    pub(super) data: String,
}

/// The stream is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SseError {
    /// An event is over the limit.
    #[error("an event of the stream is longer than {MAX_EVENT_BYTES} bytes")]
    TooLong,
    /// A line is not UTF-8.
    #[error("the stream is not UTF-8")]
    NotUtf8,
}

/// Takes bytes, gives events.
#[derive(Debug, Default)]
pub(super) struct SseParser {
    line: Vec<u8>,
    event: SseEvent,
    has_data: bool,
    after_return: bool,
    is_past_start: bool,
}

impl SseParser {
    /// Takes the next bytes and gives the events that they complete.
    ///
    /// # Errors
    /// [`SseError`]; the stream cannot be read further.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, SseError> {
        let mut events = Vec::new();
        for &byte in bytes {
            let follows_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if follows_return => {}
                b'\n' | b'\r' => events.extend(self.end_line()?),
                _ if self.pending() >= MAX_EVENT_BYTES => return Err(SseError::TooLong),
                _ => self.line.push(byte),
            }
        }
        assert!(self.pending() <= MAX_EVENT_BYTES, "what is kept is bounded");
        Ok(events)
    }

    fn pending(&self) -> usize {
        self.line.len() + self.event.name.len() + self.event.data.len()
    }

    fn end_line(&mut self) -> Result<Option<SseEvent>, SseError> {
        let line = std::mem::take(&mut self.line);
        let line = std::str::from_utf8(&line).map_err(|_| SseError::NotUtf8)?;
        let is_first = !std::mem::replace(&mut self.is_past_start, true);
        let line = if is_first { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return Ok(std::mem::take(&mut self.has_data).then_some(event));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // Comments (an empty field), ids and retry times mean nothing here.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_EVENT_BYTES, SseError, SseEvent, SseParser};

    fn event(name: &str, data: &str) -> SseEvent {
        SseEvent { name: name.into(), data: data.into() }
    }

    #[test]
    fn any_cut_into_pieces_gives_the_same_events() {
        let stream = "\u{feff}: hello\r\n\r\nevent: a\r\ndata: {\"x\":\r\ndata:1}\r\n\r\nid: 7\rdata\r\rdata: \u{e4}\n\n"
            .as_bytes();
        let expected = [event("a", "{\"x\":\n1}"), event("", ""), event("", "\u{e4}")];
        for size in 1..stream.len() {
            let mut parser = SseParser::default();
            let events: Vec<_> =
                stream.chunks(size).flat_map(|piece| parser.feed(piece).expect("well formed")).collect();
            assert_eq!(events, expected, "pieces of {size}");
        }
    }

    #[test]
    fn an_unfinished_event_is_not_given() {
        assert_eq!(SseParser::default().feed(b"data: half\n"), Ok(Vec::new()));
    }

    #[test]
    fn endless_lines_and_bad_text_are_refused() {
        let mut parser = SseParser::default();
        assert!(parser.feed(b"data: ").is_ok());
        assert_eq!(parser.feed(&vec![b'x'; MAX_EVENT_BYTES + 1]), Err(SseError::TooLong));
        let mut parser = SseParser::default();
        let many = "data: xxxxxxxxxxxxxxx\n".repeat(MAX_EVENT_BYTES / 15);
        assert_eq!(parser.feed(many.as_bytes()), Err(SseError::TooLong));
        assert_eq!(SseParser::default().feed(b"data: \xff\n\n"), Err(SseError::NotUtf8));
    }
}
