//! Makes a small PNG of a PNG, with the `image` crate unchanged: real code that its author did not write for a sandbox.
#![no_main]

use std::io::Cursor;

use image::{GenericImageView, ImageFormat, ImageReader, Limits};

wit_bindgen::generate!({ path: "wit/thumbnail.wit", world: "thumbnailer" });

/// A few bytes of PNG can claim to be gigabytes of pixels: refuse them with an error before the host's memory limit
/// has to stop the guest. 32 MiB are 8 megapixels of 4 bytes.
const MAX_DECODED: u64 = 32 * 1024 * 1024;

struct Thumbnailer;

impl Guest for Thumbnailer {
    fn thumbnail(image: Vec<u8>, max_side: u32) -> Result<Vec<u8>, String> {
        if max_side == 0 {
            return Err("max-side is 0".to_string());
        }
        let mut reader = ImageReader::with_format(Cursor::new(image), ImageFormat::Png);
        let mut limits = Limits::default();
        limits.max_alloc = Some(MAX_DECODED);
        reader.limits(limits);

        let image = reader.decode().map_err(|e| e.to_string())?;
        let (width, height) = image.dimensions();
        let small = if width.max(height) > max_side { image.thumbnail(max_side, max_side) } else { image };
        let mut png = Vec::new();
        small.write_to(&mut Cursor::new(&mut png), ImageFormat::Png).map_err(|e| e.to_string())?;
        Ok(png)
    }
}

export!(Thumbnailer);
