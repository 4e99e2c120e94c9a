//! Does with buckets as it is told to, by `wasi:keyvalue` 0.2.0-draft2: see the world `keyvalue`.
#![no_main]

use exports::example::keyvalue::operations::Guest as Operations;
use wasi::keyvalue0_2_0_draft2::atomics::{self, Cas, CasError};
use wasi::keyvalue0_2_0_draft2::batch;
use wasi::keyvalue0_2_0_draft2::store::{self, Bucket, Error};

wit_bindgen::generate!({ path: "wit/keyvalue", world: "keyvalue", generate_all });

struct Keeper;

fn name(error: Error) -> String {
    match error {
        Error::NoSuchStore => "no-such-store".to_owned(),
        Error::AccessDenied => "access-denied".to_owned(),
        Error::Other(text) => format!("other: {text}"),
    }
}

fn open(bucket: &str) -> Result<Bucket, String> {
    store::open(bucket).map_err(name)
}

impl Operations for Keeper {
    fn get(bucket: String, key: String) -> Result<Option<Vec<u8>>, String> {
        open(&bucket)?.get(&key).map_err(name)
    }

    fn set(bucket: String, key: String, value: Vec<u8>) -> Result<(), String> {
        open(&bucket)?.set(&key, &value).map_err(name)
    }

    fn delete(bucket: String, key: String) -> Result<(), String> {
        open(&bucket)?.delete(&key).map_err(name)
    }

    fn exists(bucket: String, key: String) -> Result<bool, String> {
        open(&bucket)?.exists(&key).map_err(name)
    }

    fn keys(bucket: String, remove: bool) -> Result<Vec<Vec<String>>, String> {
        let bucket = open(&bucket)?;
        let (mut pages, mut cursor) = (Vec::new(), None);
        loop {
            let page = bucket.list_keys(cursor.as_deref()).map_err(name)?;
            if remove {
                page.keys.iter().try_for_each(|key| bucket.delete(key)).map_err(name)?;
            }
            pages.push(page.keys);
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(pages);
            }
        }
    }

    fn keys_from(bucket: String, cursor: String) -> Result<Vec<String>, String> {
        let cursor = cursor.as_str();
        Ok(open(&bucket)?.list_keys(Some(cursor)).map_err(name)?.keys)
    }

    fn increment(bucket: String, key: String, delta: i64, times: u32) -> Result<i64, String> {
        let bucket = open(&bucket)?;
        let mut sum = 0;
        for _ in 0..times {
            sum = atomics::increment(&bucket, &key, delta).map_err(name)?;
        }
        Ok(sum)
    }

    fn get_many(bucket: String, keys: Vec<String>) -> Result<Vec<Option<(String, Vec<u8>)>>, String> {
        batch::get_many(&open(&bucket)?, &keys).map_err(name)
    }

    fn set_many(bucket: String, key_values: Vec<(String, Vec<u8>)>) -> Result<(), String> {
        batch::set_many(&open(&bucket)?, &key_values).map_err(name)
    }

    fn delete_many(bucket: String, keys: Vec<String>) -> Result<(), String> {
        batch::delete_many(&open(&bucket)?, &keys).map_err(name)
    }

    fn hoard(bucket: String, times: u32) -> Result<(), String> {
        (0..times).try_for_each(|_| open(&bucket).map(std::mem::forget))
    }
}

fn cas_name(error: CasError) -> String {
    match error {
        CasError::StoreError(error) => name(error),
        CasError::CasFailed(_) => "cas-failed".to_owned(),
    }
}

impl Guest for Keeper {
    fn swap_add(bucket: String, key: String, times: u32) -> Result<u32, String> {
        let bucket = open(&bucket)?;
        let mut failed = 0;
        for _ in 0..times {
            let mut cas = Cas::new(&bucket, &key).map_err(name)?;
            loop {
                let now = cas.current().map_err(name)?.unwrap_or_else(|| b"0".to_vec());
                let now: i64 = String::from_utf8_lossy(&now).parse().map_err(|_| "no number".to_owned())?;
                match atomics::swap(cas, (now + 1).to_string().as_bytes()) {
                    Ok(()) => break,
                    Err(CasError::CasFailed(fresh)) => (cas, failed) = (fresh, failed + 1),
                    Err(error) => return Err(cas_name(error)),
                }
            }
        }
        Ok(failed)
    }

    fn swap_late(bucket: String, key: String) -> Result<Vec<u8>, String> {
        let bucket = open(&bucket)?;
        let cas = Cas::new(&bucket, &key).map_err(name)?;
        bucket.set(&key, b"between").map_err(name)?;
        let Err(CasError::CasFailed(fresh)) = atomics::swap(cas, b"late") else {
            return Err("a late swap did not fail".to_owned());
        };
        let between = fresh.current().map_err(name)?.unwrap_or_default();
        atomics::swap(fresh, b"in time").map_err(cas_name)?;
        Ok(between)
    }
}

export!(Keeper);
