//! The answer to a GET, head and body, as its bytes arrive.

use super::MAX_HEAD;

/// The longest line of a chunked body that is not data, bytes.
const MAX_CHUNK_LINE: usize = 1024;
/// The most header fields.
const MAX_FIELDS: usize = 128;

/// Why an answer cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyError {
    /// Its status is not 200.
    Status(u16),
    /// Anything else, for people.
    Other(String),
}

/// Where in the answer the next byte belongs.
#[derive(Debug)]
enum At {
    Head(Vec<u8>),
    /// So many bytes of the body are missing; `None`: it ends with the connection.
    Body(Option<u64>),
    /// The line that tells a chunk's size.
    Size(Vec<u8>),
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd(Vec<u8>),
    Done,
}

/// Takes an answer apart. Holds the head, or one line of it, and never the body.
#[derive(Debug)]
pub struct BodyReader {
    at: At,
}

impl Default for BodyReader {
    fn default() -> BodyReader {
        BodyReader { at: At::Head(Vec::new()) }
    }
}

impl BodyReader {
    /// Takes the next bytes and hands what is body to `take`. Returns whether the answer is complete.
    ///
    /// # Errors
    /// [`BodyError`], or what `take` says.
    pub fn feed<E: From<BodyError>>(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<bool, E> {
        while !bytes.is_empty() && !matches!(self.at, At::Done) {
            bytes = self.step(bytes, &mut take)?;
        }
        Ok(matches!(self.at, At::Done))
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// The answer is not complete.
    pub fn end(&self) -> Result<(), BodyError> {
        match self.at {
            At::Done | At::Body(None) => Ok(()),
            At::Head(ref head) if head.is_empty() => {
                Err(BodyError::Other("the connection ended before an answer".into()))
            }
            _ => Err(BodyError::Other("the connection ended in the middle of the answer".into())),
        }
    }

    fn step<'b, E: From<BodyError>>(
        &mut self,
        bytes: &'b [u8],
        take: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<&'b [u8], E> {
        match &mut self.at {
            At::Done => Ok(&[]),
            At::Body(None) => take(bytes).map(|()| &bytes[..0]),
            At::Body(Some(left)) | At::Chunk(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                let (now, rest) = bytes.split_at(count);
                take(now)?;
                *left -= count as u64;
                if *left == 0 {
                    self.at =
                        if matches!(self.at, At::Chunk(_)) { At::ChunkEnd(Vec::new()) } else { At::Done };
                }
                Ok(rest)
            }
            At::Head(head) => {
                let before = head.len();
                head.extend_from_slice(&bytes[..bytes.len().min(MAX_HEAD + 1 - before.min(MAX_HEAD))]);
                let (next, length) = match parse_head(head)? {
                    Some(found) => found,
                    None if head.len() > MAX_HEAD => {
                        return Err(BodyError::Other(format!(
                            "the answer's head is longer than {MAX_HEAD} bytes"
                        ))
                        .into());
                    }
                    None => return Ok(&[]),
                };
                self.at = next;
                Ok(bytes.get(length.saturating_sub(before)..).unwrap_or_default())
            }
            At::Size(line) | At::ChunkEnd(line) => {
                let end = bytes.iter().position(|byte| *byte == b'\n');
                line.extend_from_slice(&bytes[..end.map_or(bytes.len(), |end| end + 1).min(MAX_CHUNK_LINE)]);
                if line.len() >= MAX_CHUNK_LINE {
                    return Err(BodyError::Other("a chunk of the answer has no size".into()).into());
                }
                let Some(end) = end else { return Ok(&[]) };
                let rest = bytes.get(end + 1..).unwrap_or_default();
                self.at = match &self.at {
                    At::Size(line) => chunk(line)?,
                    _ => At::Size(Vec::new()),
                };
                Ok(rest)
            }
        }
    }
}

/// What follows a whole head, and how long that is.
fn parse_head(head: &[u8]) -> Result<Option<(At, usize)>, BodyError> {
    let mut skipped = 0;
    loop {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let rest = head.get(skipped..).unwrap_or_default();
        let parsed = response.parse(rest);
        let parsed = parsed.map_err(|error| BodyError::Other(format!("the answer is not HTTP: {error}")))?;
        let httparse::Status::Complete(length) = parsed else { return Ok(None) };
        skipped += length;
        match response.code {
            Some(code) if (100..200).contains(&code) && code != 101 => {}
            Some(200) => return Ok(Some((body_of(response.headers)?, skipped))),
            code => return Err(BodyError::Status(code.unwrap_or(0))),
        }
    }
}

/// How long the body is.
fn body_of(fields: &[httparse::Header<'_>]) -> Result<At, BodyError> {
    let field = |name: &str| {
        let found = fields.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        found.map(|field| String::from_utf8_lossy(field.value).trim().to_ascii_lowercase())
    };
    if let Some(coding) = field("content-encoding").filter(|coding| coding != "identity") {
        return Err(BodyError::Other(format!(
            "the page comes as {coding}, although only plain text was asked for"
        )));
    }
    match (field("transfer-encoding"), field("content-length")) {
        (Some(coding), _) if coding == "chunked" => Ok(At::Size(Vec::new())),
        (Some(coding), _) => Err(BodyError::Other(format!("the transfer encoding {coding} is not known"))),
        (None, Some(length)) => match length.parse() {
            Ok(0) => Ok(At::Done),
            Ok(length) => Ok(At::Body(Some(length))),
            Err(_) => Err(BodyError::Other(format!("{length} is no Content-Length"))),
        },
        (None, None) => Ok(At::Body(None)),
    }
}

fn chunk(line: &[u8]) -> Result<At, BodyError> {
    let text = String::from_utf8_lossy(line);
    let digits = text.split(';').next().unwrap_or_default().trim();
    match u64::from_str_radix(digits, 16) {
        // Trailers tell nothing that is wanted.
        Ok(0) => Ok(At::Done),
        Ok(size) => Ok(At::Chunk(size)),
        Err(_) => Err(BodyError::Other("a chunk of the answer has no size".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &[u8], piece: usize) -> Result<String, BodyError> {
        let (mut reader, mut body) = (BodyReader::default(), Vec::new());
        for part in answer.chunks(piece) {
            let done = reader.feed(part, |bytes| {
                body.extend_from_slice(bytes);
                Ok::<(), BodyError>(())
            })?;
            if done {
                break;
            }
        }
        reader.end()?;
        Ok(String::from_utf8(body).unwrap())
    }

    #[test]
    fn every_way_to_send_a_body_is_read_however_it_is_cut() {
        let long = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world and more";
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
        let closed = "HTTP/1.0 200 OK\r\nContent-Encoding: identity\r\n\r\nhello world";
        let late = format!("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{long}");
        for answer in [long, chunked, closed, &late] {
            for piece in [1, 2, 7, 1000] {
                assert_eq!(read(answer.as_bytes(), piece).as_deref(), Ok("hello world"), "{answer} {piece}");
            }
        }
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 3).as_deref(), Ok(""));
    }

    #[test]
    fn what_is_no_answer_is_said() {
        let other = |why: &str| Err(BodyError::Other(why.into()));
        for (answer, why) in [
            ("HTTP/1.1 404 Not Found\r\n\r\n", Err(BodyError::Status(404))),
            ("HTTP/1.1 302 Found\r\n\r\n", Err(BodyError::Status(302))),
            ("", other("the connection ended before an answer")),
            ("HTTP/1.1 200 OK\r\n", other("the connection ended in the middle of the answer")),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
                other("the connection ended in the middle of the answer"),
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", other("x is no Content-Length")),
            (
                "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
                other("the page comes as gzip, although only plain text was asked for"),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                other("a chunk of the answer has no size"),
            ),
        ] {
            assert_eq!(read(answer.as_bytes(), 5), why, "{answer}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(2 * MAX_HEAD));
        assert!(read(endless.as_bytes(), 100).is_err());
        let chunk = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;{}", "y".repeat(4096));
        assert!(read(chunk.as_bytes(), 100).is_err());
    }
}
