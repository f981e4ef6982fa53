//! Bytes as hexadecimal digits and back, for keys, signatures and salts.
//!
//! Invariant: text is accepted only in the one form that is written: lower case, exactly as long as needed.

use std::fmt::Write as _;

pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap_or_else(|_| unreachable!("a string takes all that is written"));
    }
    text
}

pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

const fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn bytes_survive_and_other_text_is_refused() {
        let bytes = [0, 1, 0x7f, 0x80, 0xff, 0xa5];
        assert_eq!(encode(&bytes), "00017f80ffa5");
        assert_eq!(decode::<6>("00017f80ffa5"), Some(bytes));
        for bad in ["", "00017f80ffa", "00017f80ffa500", "00017F80ffa5", "00017g80ffa5", "00017f80ff\u{e9}"] {
            assert_eq!(decode::<6>(bad), None, "{bad}");
        }
    }
}
