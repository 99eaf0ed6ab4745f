//! The HTTP listener in a stored state. Connections are not: those that are being answered are waited for, the others end.

use super::bind::Listener;
use super::page_tokens::PageTokens;
use crate::daemon::saved::{Incoming, Key, Outgoing, StoredPath};
use crate::sys::unixpath::BoundPath;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A listener, and the token file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedHttp {
    fd: Key,
    is_tcp: bool,
    address: String,
    path: Option<BoundPath>,
    token_file: Option<StoredPath>,
    page_tokens: PageTokens,
}

/// What is to be served again.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) listener: Listener,
    pub(super) token_file: Option<PathBuf>,
    pub(super) page_tokens: PageTokens,
}

impl Stored {
    pub(super) fn restore(saved: SavedHttp, from: &mut Incoming) -> Result<Stored, String> {
        let SavedHttp { fd, is_tcp, address, path, token_file, page_tokens } = saved;
        let listener = Listener::restored(from.take(&fd)?, is_tcp, address, path)
            .map_err(|error| format!("cannot serve HTTP again: {error}"))?;
        Ok(Stored { listener, token_file: token_file.map(|path| path.0), page_tokens })
    }
}

/// Stores a listener.
///
/// # Errors
/// Those of [`Outgoing::put`].
pub(super) fn save(
    listener: &Listener,
    token_file: Option<&PathBuf>,
    page_tokens: PageTokens,
    out: &mut Outgoing,
) -> Result<SavedHttp, String> {
    let (fd, is_tcp, path) = listener.parts();
    Ok(SavedHttp {
        fd: out.put("http", fd)?,
        is_tcp,
        address: listener.address().to_owned(),
        path: path.cloned(),
        token_file: token_file.cloned().map(StoredPath),
        page_tokens,
    })
}
