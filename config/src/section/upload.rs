//! `[upload]`: files that users share over HTTP (XEP-0363): where they are kept, how many, for how long.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use crate::table::Table;
use crate::value::{FromToml, RegionName, Size, describe};

/// The `[upload]` section. Sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Where clients reach the HTTP port of this region, without a slash at the end. None: the first address of `http.listen`.
    pub url: Option<String>,
    /// What the slots are signed with, the same in every node. None: a slot is good only at the node that gave it.
    pub key: Option<String>,
    /// Where the files are.
    pub store: UploadStore,
    /// The directory of `store = "disk"`, shared by the nodes of the region.
    pub dir: PathBuf,
    /// The bucket of `store = "s3"`.
    pub s3: S3,
    /// One file. Beyond: `file-too-large`.
    pub file_bytes_max: usize,
    /// All files of an account together. Beyond: `resource-constraint`, and when to try again.
    pub account_bytes_max: usize,
    /// Of those, the bytes of 24 hours. Beyond: the same.
    pub account_bytes_per_day_max: usize,
    /// Files of an account. Beyond: the same.
    pub account_files_max: usize,
    /// How long a file of a message is kept.
    pub keep: Duration,
    /// The same, of what is meant to be short-lived.
    pub keep_ephemeral: Duration,
    /// The same, of avatars and the like.
    pub keep_profile: Duration,
    /// The same, of what is meant to stay.
    pub keep_permanent: Duration,
    /// How long after it was given a slot may be used.
    pub slot_valid: Duration,
    /// The slowest a file may come in or go out, averaged, after a minute of grace. Below: the connection is closed.
    pub bytes_per_s_min: usize,
    /// Files that come in or go out at one time, of this node. Beyond: 503.
    pub transfers_max: usize,
    /// The authorities that the certificates of an `https` bucket or region may be from, PEM. Read when the first is needed.
    pub ca: PathBuf,
    /// Where the other regions' files are.
    pub regions: Vec<UploadRegion>,
}

/// Where the files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadStore {
    /// In a directory.
    Disk,
    /// In a bucket that speaks S3.
    S3,
}

/// `[upload.s3]`: a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3 {
    /// `http://` or `https://`, host and port; the bucket's name follows as the first part of the path.
    pub endpoint: String,
    /// The name of its region, as signatures have it.
    pub region: String,
    /// Its name.
    pub bucket: String,
    /// What the names of all our objects begin with.
    pub prefix: String,
    /// Who we are there.
    pub access_key: String,
    /// And the proof.
    pub secret_key: String,
}

/// `[[upload.regions]]`: the HTTP port of another region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadRegion {
    /// Its name.
    pub region: String,
    /// As `upload.url` there.
    pub url: String,
}

/// `http://host:port` or `https://host`, perhaps with a path, without a slash at the end.
struct HttpUrl(String);

impl FromToml for HttpUrl {
    fn expected() -> String {
        "an address as in \"https://files.chat.example\", without a slash at the end".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let written = value.as_str().ok_or_else(|| describe(value))?;
        let rest = written.strip_prefix("https://").or_else(|| written.strip_prefix("http://"));
        let good = rest.is_some_and(|rest| {
            !rest.is_empty()
                && !rest.starts_with(['/', ':'])
                && !rest.ends_with('/')
                && rest.chars().all(|c| c.is_ascii_graphic() && !"?#@\"<>\\^`{|}".contains(c))
        });
        if good { Ok(HttpUrl(written.to_owned())) } else { Err(describe(value)) }
    }
    fn stand_in() -> Self {
        HttpUrl(String::new())
    }
}

impl FromToml for UploadStore {
    fn expected() -> String {
        "\"disk\" or \"s3\"".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value.as_str() {
            Some("disk") => Ok(UploadStore::Disk),
            Some("s3") => Ok(UploadStore::S3),
            _ => Err(describe(value)),
        }
    }
    fn stand_in() -> Self {
        UploadStore::Disk
    }
}

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn read(table: &Table<'_>) -> Upload {
    let size = |key, default: usize| {
        let words = "a size from 1 byte to \"1048576GiB\"";
        table.between(key, Size(default), Size(1), Size(1 << 50), words).0
    };
    let count = |key, default: usize| {
        table.between(key, default, 1, 1_000_000, "a number from 1 to 1000000")
    };
    let time = |key, default: Duration, most: Duration, words| {
        table.between(key, default, Duration::from_secs(1), most, words)
    };
    let keep = |key, days: u32| time(key, DAY * days, DAY * 36_500, "from \"1s\" to \"36500d\"");
    let upload = Upload {
        url: table.optional::<HttpUrl>("url").map(|url| url.0),
        key: table.optional("key"),
        store: table.value("store", UploadStore::Disk),
        // By default `upload` in `node.data_dir`: `check::complete`.
        dir: table.optional_path("dir").unwrap_or_default(),
        s3: s3(&table.section("s3")),
        file_bytes_max: size("file_bytes_max", 100 << 20),
        account_bytes_max: size("account_bytes_max", 2 << 30),
        account_bytes_per_day_max: size("account_bytes_per_day_max", 1 << 30),
        account_files_max: count("account_files_max", 10_000),
        keep: keep("keep", 31),
        keep_ephemeral: keep("keep_ephemeral", 2),
        keep_profile: keep("keep_profile", 730),
        keep_permanent: keep("keep_permanent", 3650),
        slot_valid: time(
            "slot_valid",
            Duration::from_secs(300),
            Duration::from_secs(3_600),
            "a duration from \"1s\" to \"1h\"",
        ),
        bytes_per_s_min: size("bytes_per_s_min", 4 << 10),
        transfers_max: count("transfers_max", 2_000),
        ca: table.path("ca", Some("/etc/ssl/certs/ca-certificates.crt".into())),
        regions: table
            .sections("regions")
            .iter()
            .map(|table| UploadRegion {
                region: table.required::<RegionName>("region").0,
                url: table.required::<HttpUrl>("url").0,
            })
            .collect(),
    };
    if upload.key.as_ref().is_some_and(|key| key.len() < 16) {
        table.refuse("key", "a secret of at least 16 characters", "a shorter one");
    }
    let least = upload.account_bytes_max.min(upload.account_bytes_per_day_max);
    if upload.file_bytes_max > least {
        let expected =
            format!("at most what an account may have and may add in a day, {least} bytes");
        table.refuse("file_bytes_max", expected, format!("{} bytes", upload.file_bytes_max));
    }
    if upload.store == UploadStore::S3
        && (upload.s3.access_key.is_empty() || upload.s3.secret_key.is_empty())
    {
        table.refuse("store", "upload.s3.access_key and upload.s3.secret_key with \"s3\"", "none");
    }
    upload
}

fn s3(table: &Table<'_>) -> S3 {
    let text = |key, default: &str| table.value(key, default.to_owned());
    let endpoint = HttpUrl("https://s3.us-east-1.amazonaws.com".to_owned());
    S3 {
        endpoint: table.value("endpoint", endpoint).0,
        region: text("region", "us-east-1"),
        bucket: text("bucket", "pangaea"),
        prefix: text("prefix", ""),
        access_key: text("access_key", ""),
        secret_key: text("secret_key", ""),
    }
}
