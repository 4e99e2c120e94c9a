//! Does with buckets as it is told to, by `wasi:keyvalue` 0.2.0-draft: see the world `keyvalue-draft`.
#![no_main]

use exports::example::keyvalue::operations::Guest as Operations;
use wasi::keyvalue0_2_0_draft::atomics;
use wasi::keyvalue0_2_0_draft::batch;
use wasi::keyvalue0_2_0_draft::store::{self, Bucket, Error};

wit_bindgen::generate!({ path: "wit/keyvalue", world: "keyvalue-draft", generate_all });

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
            let page = bucket.list_keys(cursor).map_err(name)?;
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
        let cursor = cursor.parse().map_err(|_| "no number".to_owned())?;
        Ok(open(&bucket)?.list_keys(Some(cursor)).map_err(name)?.keys)
    }

    fn increment(bucket: String, key: String, delta: i64, times: u32) -> Result<i64, String> {
        let bucket = open(&bucket)?;
        let mut sum = 0;
        for _ in 0..times {
            sum = atomics::increment(&bucket, &key, delta as u64).map_err(name)? as i64;
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

export!(Keeper);
