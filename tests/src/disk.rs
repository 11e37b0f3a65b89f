//! A small disk of one's own, in memory, that can be filled to the last byte. Unmounted when it is dropped, before which whoever writes to it has to end.

use crate::client::Result;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;

/// See the module.
pub struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// One of so many MiB. `None`: who runs the tests may not mount one.
    ///
    /// # Errors
    /// There is no room for its directory.
    pub fn mount(mebibytes: u32) -> Result<Option<Self>> {
        let mut named = tempfile::Builder::new();
        let dir = named.prefix("pangaea-disk-").tempdir().map_err(|e| e.to_string())?;
        let size = format!("size={mebibytes}m,mode=0755");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "pangaea-tests"]).arg(dir.path());
        let done = mount.output().is_ok_and(|done| done.status.success());
        Ok(done.then_some(Self { dir }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// To the last page.
    ///
    /// # Errors
    /// It cannot be written, and is not full.
    pub fn fill(&self) -> Result<()> {
        let ballast = self.path().join("ballast");
        let mut ballast = std::fs::File::create(ballast).map_err(|e| e.to_string())?;
        // Ever smaller pieces, so that not one is left.
        for piece in [1 << 20, 1 << 12] {
            let zeros = vec![0; piece];
            loop {
                match ballast.write_all(&zeros) {
                    Ok(()) => {}
                    Err(e) if e.kind() == ErrorKind::StorageFull => break,
                    Err(e) => return Err(e.to_string()),
                }
            }
        }
        Ok(())
    }

    /// There is room again.
    ///
    /// # Errors
    /// It was not filled.
    pub fn empty(&self) -> Result<()> {
        std::fs::remove_file(self.path().join("ballast")).map_err(|e| e.to_string())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}
