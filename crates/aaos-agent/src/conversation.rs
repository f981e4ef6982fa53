//! The messages of a conversation, each weighed once.
//!
//! Invariant: there is one size for each message, of what it says now.

use std::ops::Deref;

use aaos_core::model::Message;
use aaos_core::quantity::Bytes;

use crate::context::message_size;

/// Messages, oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Conversation {
    messages: Vec<Message>,
    sizes: Vec<Bytes>,
}

impl Deref for Conversation {
    type Target = [Message];

    fn deref(&self) -> &[Message] {
        &self.messages
    }
}

impl Conversation {
    pub(crate) fn push(&mut self, message: Message) {
        self.sizes.push(message_size(&message));
        self.messages.push(message);
    }

    /// Says something else in the place of the first one, or first.
    pub(crate) fn begin_with(&mut self, message: Message) {
        match (self.messages.first_mut(), self.sizes.first_mut()) {
            (Some(first), Some(size)) => (*size, *first) = (message_size(&message), message),
            _ => self.push(message),
        }
    }

    /// Leaves out the messages from the one number up to before the other.
    pub(crate) fn leave_out(&mut self, from: usize, to: usize) {
        let to = to.min(self.messages.len());
        let from = from.min(to);
        self.messages.drain(from..to);
        self.sizes.drain(from..to);
        assert_eq!(self.messages.len(), self.sizes.len(), "each message is weighed");
    }

    /// Each message, and what it weighs.
    pub(crate) fn sized(&self) -> impl Iterator<Item = (&Message, Bytes)> {
        self.messages.iter().zip(self.sizes.iter().copied())
    }

    /// What all messages from this one on weigh.
    pub(crate) fn size_from(&self, at: usize) -> Bytes {
        self.sizes.get(at..).unwrap_or_default().iter().copied().fold(Bytes::ZERO, Bytes::plus)
    }
}
