//! gRPC over HTTP/2 as bytes: message frames, timeouts, status codes and text in headers. No I/O, no Python.

use std::io::Read;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

pub const PREFIX: usize = 5;

/// Why a request is not given to a handler: a status code and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: u32,
    pub message: String,
}

impl Refusal {
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

pub const OK: u32 = 0;
pub const CANCELLED: u32 = 1;
pub const UNKNOWN: u32 = 2;
pub const DEADLINE_EXCEEDED: u32 = 4;
pub const RESOURCE_EXHAUSTED: u32 = 8;
pub const UNIMPLEMENTED: u32 = 12;
pub const INTERNAL: u32 = 13;
pub const UNAVAILABLE: u32 = 14;

const CODES: [&str; 17] = [
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
];

/// Return the number of a status code by its name; an unknown name is UNKNOWN.
pub fn code_of(name: &str) -> u32 {
    CODES.iter().position(|known| *known == name).map_or(UNKNOWN, |at| at as u32)
}

/// Return how long a caller waits, from the `grpc-timeout` header: up to 8 digits and a unit.
pub fn parse_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

const TEXT: &AsciiSet = &CONTROLS.add(b'%');

/// Return a message as `grpc-message` carries it: printable ASCII, the rest percent-encoded.
pub fn encode_message(text: &str) -> String {
    utf8_percent_encode(text, TEXT).to_string()
}

/// The one message of a unary request, put together from what arrives.
pub struct MessageReader {
    arrived: BytesMut,
    limit: usize,
}

impl MessageReader {
    /// A reader of a message of at most so many bytes, before and after it is decompressed.
    pub fn new(limit: usize) -> Self {
        Self { arrived: BytesMut::new(), limit }
    }

    /// Take the next bytes; refuses as soon as it is known that there are too many.
    pub fn push(&mut self, data: &[u8]) -> Result<(), Refusal> {
        self.arrived.extend_from_slice(data);
        let Some(length) = frame_length(&self.arrived) else { return Ok(()) };
        if length > self.limit {
            return Err(too_large(length, self.limit));
        }
        if self.arrived.len() > PREFIX + length { Err(too_many()) } else { Ok(()) }
    }

    /// Return the message, at the end of the request.
    pub fn finish(self, encoding: Option<&[u8]>) -> Result<Bytes, Refusal> {
        read_frame(self.arrived.freeze(), encoding, self.limit)
    }
}

fn frame_length(arrived: &[u8]) -> Option<usize> {
    let prefix = arrived.get(1..PREFIX)?;
    Some(u32::from_be_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]) as usize)
}

/// Return the message of a whole request body.
pub fn read_frame(mut body: Bytes, encoding: Option<&[u8]>, limit: usize) -> Result<Bytes, Refusal> {
    let Some(length) = frame_length(&body) else {
        return Err(Refusal::new(INTERNAL, "The request ended before its message."));
    };
    if length > limit {
        return Err(too_large(length, limit));
    }
    let compressed = body[0];
    body.advance(PREFIX);
    if body.len() > length {
        return Err(too_many());
    }
    if body.len() < length {
        return Err(Refusal::new(INTERNAL, "The request ended within its message."));
    }
    match (compressed, encoding) {
        (0, _) => Ok(body),
        (1, Some(b"gzip")) => gunzip(&body, limit),
        (1, Some(b"identity") | None) => Err(Refusal::new(INTERNAL, "The message is compressed without saying how.")),
        (1, Some(_)) => Err(Refusal::new(UNIMPLEMENTED, "Messages may be compressed by gzip alone.")),
        _ => Err(Refusal::new(INTERNAL, "The message's frame is malformed.")),
    }
}

fn gunzip(body: &[u8], limit: usize) -> Result<Bytes, Refusal> {
    let mut plain = Vec::new();
    let read = flate2::read::GzDecoder::new(body).take(limit as u64 + 1).read_to_end(&mut plain);
    match read {
        Err(_) => Err(Refusal::new(INTERNAL, "The message is no gzip.")),
        Ok(size) if size > limit => Err(too_large(size, limit)),
        Ok(_) => Ok(plain.into()),
    }
}

fn too_many() -> Refusal {
    Refusal::new(UNIMPLEMENTED, "A unary call has one message, and more came.")
}

fn too_large(size: usize, limit: usize) -> Refusal {
    Refusal::new(RESOURCE_EXHAUSTED, format!("The message has {size} bytes or more; at most {limit} are allowed."))
}

/// Return a message as it is sent: five bytes before it say that it is not compressed, and how long it is.
pub fn write_frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    #[test]
    fn timeouts_have_up_to_eight_digits_and_a_unit() {
        assert_eq!(parse_timeout(b"20S"), Some(Duration::from_secs(20)));
        assert_eq!(parse_timeout(b"99999999n"), Some(Duration::from_nanos(99_999_999)));
        for wrong in [&b""[..], b"S", b"1", b"1x", b"-1S", b"123456789S", b"1.5S"] {
            assert_eq!(parse_timeout(wrong), None);
        }
    }

    #[test]
    fn codes_by_name() {
        assert_eq!((code_of("OK"), code_of("UNAUTHENTICATED"), code_of("other")), (0, 16, UNKNOWN));
    }

    #[test]
    fn a_bomb_is_refused_by_its_plain_size() {
        let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        zipped.write_all(&vec![0; 1 << 20]).unwrap();
        let mut frame = BytesMut::from(&write_frame(&zipped.finish().unwrap())[..]);
        frame[0] = 1;
        assert_eq!(read_frame(frame.freeze(), Some(b"gzip"), 1 << 16).unwrap_err().code, RESOURCE_EXHAUSTED);
    }

    proptest! {
        #[test]
        fn a_frame_that_was_written_is_read(message: Vec<u8>) {
            prop_assert_eq!(read_frame(write_frame(&message), None, 1 << 20).unwrap(), Bytes::from(message));
        }

        #[test]
        fn a_message_arrives_however_it_is_cut(message: Vec<u8>, cut in 0usize..64) {
            let frame = write_frame(&message);
            let mut reader = MessageReader::new(1 << 20);
            for part in frame.chunks(cut.max(1)) {
                reader.push(part).unwrap();
            }
            prop_assert_eq!(reader.finish(None).unwrap(), Bytes::from(message));
        }

        #[test]
        fn any_bytes_are_a_message_or_a_refusal(body: Vec<u8>, encoding in prop::option::of(Just(b"gzip".to_vec()))) {
            let mut reader = MessageReader::new(64);
            if reader.push(&body).is_ok() {
                if let Ok(message) = reader.finish(encoding.as_deref()) {
                    prop_assert!(message.len() <= 64);
                }
            }
        }

        #[test]
        fn any_bytes_are_a_timeout_or_none(text: Vec<u8>) {
            if let Some(timeout) = parse_timeout(&text) {
                prop_assert!(timeout <= Duration::from_secs(99_999_999 * 3600));
            }
        }

        #[test]
        fn any_text_is_sent_as_printable_ascii(text: String) {
            let sent = encode_message(&text);
            prop_assert!(sent.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            prop_assert_eq!(percent_encoding::percent_decode_str(&sent).decode_utf8().unwrap(), text);
        }
    }
}
