//! Files in a directory that the nodes of a region share.
//!
//! `files/XX/TOKEN` is a file: its bytes, then what is known of it (a [`Meta`]), so that one rename makes both visible. `owners/OWNER/TOKEN` is
//! empty, and there before the file is: who goes is found without reading every file. `part/NODE/LIFE/TOKEN` is on its way in; what a node
//! finds there of another life of its than this one goes.

use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::task::spawn_blocking;

use super::{Answer, Content, Meta, Sink, Store, StoreError};
use crate::features::upload::slot::Token;

/// The end of a file: its meta's length, and this.
const MAGIC: &[u8; 8] = b"pangaea1";
/// Bytes of that end.
const END_BYTES: usize = 4 + MAGIC.len();
/// Bytes of a meta at most: a content type, a digest, numbers.
const META_BYTES_MAX: u32 = 4096;
/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// The store.
pub(crate) struct Disk {
    dir: PathBuf,
    node: String,
    /// Of the node.
    life: OnceLock<u64>,
}

impl Disk {
    /// In this directory, for this node.
    pub(crate) fn new(dir: PathBuf, node: String) -> Disk {
        Disk { dir, node, life: OnceLock::new() }
    }

    fn file(&self, token: &Token) -> PathBuf {
        // Chance, not time: the files of one hour are not all in one directory.
        let [a, b] = [token.as_str().as_bytes()[20], token.as_str().as_bytes()[21]];
        self.dir
            .join("files")
            .join([char::from(a), char::from(b)].iter().collect::<String>())
            .join(token.as_str())
    }

    fn marker(&self, owner: &str, token: &Token) -> PathBuf {
        self.dir.join("owners").join(owner).join(token.as_str())
    }

    fn parts(&self) -> PathBuf {
        let life = self.life.get().copied().unwrap_or_default();
        self.dir.join("part").join(&self.node).join(life.to_string())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let done = spawn_blocking(work).await;
    Ok(done.map_err(|error| StoreError::Failed(error.to_string()))??)
}

impl Store for Disk {
    fn prepare(&self, life: u64) -> io::Result<()> {
        let named = |cause: io::Error| {
            io::Error::new(cause.kind(), format!("upload.dir {}: {cause}", self.dir.display()))
        };
        fs::create_dir_all(self.dir.join("files")).map_err(named)?;
        fs::create_dir_all(self.dir.join("owners")).map_err(named)?;
        let _ = self.life.set(life);
        let ours = self.parts();
        fs::create_dir_all(&ours).map_err(named)?;
        for found in fs::read_dir(self.dir.join("part").join(&self.node)).map_err(named)? {
            let found = found.map_err(named)?.path();
            if found == ours {
                continue;
            }
            let gone =
                if found.is_dir() { fs::remove_dir_all(found) } else { fs::remove_file(found) };
            gone.map_err(named)?;
        }
        Ok(())
    }

    fn create<'a>(&'a self, token: &'a Token, meta: Meta) -> Answer<'a, Box<dyn Sink>> {
        Box::pin(async move {
            let target = self.file(token);
            if tokio::fs::try_exists(&target).await? {
                return Err(StoreError::Exists);
            }
            let part = self.parts().join(token.as_str());
            let file =
                tokio::fs::OpenOptions::new().write(true).create_new(true).open(&part).await?;
            let marker = self.marker(&meta.owner, token);
            let sink = Part { part: Some(part), file, target, marker, meta };
            Ok(Box::new(sink) as Box<dyn Sink>)
        })
    }

    fn meta<'a>(&'a self, token: &'a Token) -> Answer<'a, Option<Meta>> {
        let path = self.file(token);
        Box::pin(blocking(move || read_meta(&path)))
    }

    fn read<'a>(&'a self, token: &'a Token, range: Range<u64>) -> Answer<'a, Content> {
        Box::pin(async move {
            let mut file = tokio::fs::File::open(self.file(token)).await?;
            file.seek(SeekFrom::Start(range.start)).await?;
            let rest = file.take(range.end.saturating_sub(range.start));
            let chunks = stream::try_unfold(rest, |mut rest| async move {
                let mut chunk = bytes::BytesMut::with_capacity(CHUNK_BYTES);
                let count = rest.read_buf(&mut chunk).await?;
                Ok((count > 0).then(|| (chunk.freeze(), rest)))
            });
            Ok(chunks.boxed())
        })
    }

    fn remove<'a>(&'a self, token: &'a Token, owner: &'a str) -> Answer<'a, ()> {
        let (file, marker) = (self.file(token), self.marker(owner, token));
        Box::pin(blocking(move || {
            gone(fs::remove_file(file))?;
            gone(fs::remove_file(marker))
        }))
    }

    fn remove_owner<'a>(&'a self, owner: &'a str) -> Answer<'a, usize> {
        let dir = self.dir.join("owners").join(owner);
        let files = Disk::new(self.dir.clone(), self.node.clone());
        Box::pin(blocking(move || {
            let mut count = 0;
            for token in tokens(&dir)? {
                gone(fs::remove_file(files.file(&token)))?;
                gone(fs::remove_file(dir.join(token.as_str())))?;
                count += 1;
            }
            gone(fs::remove_dir(&dir))?;
            Ok(count)
        }))
    }

    fn sweep(&self, now_s: u64) -> Answer<'_, usize> {
        let dir = self.dir.clone();
        Box::pin(blocking(move || {
            let past = |token: &Token| token.until_s() <= now_s;
            let mut count = 0;
            for dir in directories(&dir.join("files"))? {
                for token in tokens(&dir)?.into_iter().filter(past) {
                    gone(fs::remove_file(dir.join(token.as_str())))?;
                    count += 1;
                }
            }
            for dir in directories(&dir.join("owners"))? {
                for token in tokens(&dir)?.into_iter().filter(past) {
                    gone(fs::remove_file(dir.join(token.as_str())))?;
                }
                let _ = fs::remove_dir(&dir); // Fails, as it should, while something is in it.
            }
            Ok(count)
        }))
    }
}

/// What is not there is as good as removed.
fn gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn directories(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

/// The tokens a directory names; none when there is no such directory.
fn tokens(dir: &Path) -> io::Result<Vec<Token>> {
    let entries = match fs::read_dir(dir) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names
        .filter_map(|name: io::Result<String>| name.map(|name| Token::parse(&name)).transpose())
        .collect()
}

fn read_meta(path: &Path) -> io::Result<Option<Meta>> {
    let mut file = match fs::File::open(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a file without its end");
    let length = file.seek(SeekFrom::End(0))?;
    let mut end = [0; END_BYTES];
    let end_at = length.checked_sub(END_BYTES as u64).ok_or_else(damaged)?;
    file.seek(SeekFrom::Start(end_at))?;
    file.read_exact(&mut end)?;
    let (size, magic) = end.split_first_chunk::<4>().expect("it has that many bytes");
    let size = u32::from_be_bytes(*size);
    if magic != MAGIC || size > META_BYTES_MAX || u64::from(size) > end_at {
        return Err(damaged());
    }
    file.seek(SeekFrom::Start(end_at - u64::from(size)))?;
    let mut meta = vec![0; size as usize];
    file.read_exact(&mut meta)?;
    postcard::from_bytes(&meta).map(Some).map_err(|_| damaged())
}

/// A file on its way in.
struct Part {
    /// Where it is; none once it has been moved.
    part: Option<PathBuf>,
    file: tokio::fs::File,
    target: PathBuf,
    marker: PathBuf,
    meta: Meta,
}

impl Sink for Part {
    fn write(&mut self, bytes: Bytes) -> Answer<'_, ()> {
        Box::pin(async move { Ok(self.file.write_all(&bytes).await?) })
    }

    fn finish(mut self: Box<Self>) -> Answer<'static, ()> {
        Box::pin(async move {
            self.file.flush().await?;
            let file = self.file.try_clone().await?.into_std().await;
            blocking(move || self.publish(file)).await
        })
    }
}

impl Part {
    fn publish(&mut self, mut file: fs::File) -> io::Result<()> {
        let meta = postcard::to_stdvec(&self.meta).expect("a plain value");
        let size = u32::try_from(meta.len()).expect("a content type is short");
        file.write_all(&meta)?;
        file.write_all(&size.to_be_bytes())?;
        file.write_all(MAGIC)?;
        file.sync_all()?;
        let (dir, of_owner) = (parent(&self.target), parent(&self.marker));
        fs::create_dir_all(dir)?;
        fs::create_dir_all(of_owner)?;
        fs::File::create(&self.marker)?;
        let part = self.part.as_ref().expect("it is published once");
        // Not a rename: that would put it over another of the same name.
        fs::hard_link(part, &self.target)?;
        fs::File::open(dir)?.sync_all()
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("made of a directory and a name")
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(part) = self.part.take()
            && let Err(cause) = fs::remove_file(&part)
        {
            tracing::warn!(%cause, "a part of an upload stays until the next start");
        }
    }
}
