//! The `pco` crate's wrapped format: no magic number and no footer, for the count is known.

use std::sync::LazyLock;

use pco::ChunkConfig;
use pco::data_types::Number;
use pco::errors::PcoResult;
use pco::wrapped::{FileCompressor, FileDecompressor};
use sensormesh_types::{Error, Result};

use super::corrupt;

/// The knee of size against time: PERFORMANCE's `mix4`.
const LEVEL: usize = 4;

static DECOMPRESSOR: LazyLock<FileDecompressor> = LazyLock::new(|| {
    let header = FileCompressor::default().write_header(Vec::new()).expect("a vector takes every byte");
    FileDecompressor::new(&header[..]).expect("a header that was just written can be read").0
});

/// Appends the compressed numbers.
pub(super) fn put<T: Number>(out: &mut Vec<u8>, numbers: &[T]) -> Result<()> {
    compress(out, numbers).map_err(Error::internal)
}

fn compress<T: Number>(out: &mut Vec<u8>, numbers: &[T]) -> PcoResult<()> {
    if numbers.is_empty() {
        return Ok(()); // pco knows no empty chunk
    }
    let config = ChunkConfig::default().with_compression_level(LEVEL);
    let mut chunk = FileCompressor::default().chunk_compressor(numbers, &config)?;
    chunk.write_meta(&mut *out)?;
    for page in 0..chunk.n_per_page().len() {
        chunk.write_page(page, &mut *out)?;
    }
    Ok(())
}

/// Reads `count` numbers.
pub(super) fn take<T: Number + Default>(bytes: &[u8], count: usize) -> Result<Vec<T>> {
    decompress(bytes, count).map_err(|error| corrupt("its numbers cannot be decompressed").caused_by(error))
}

fn decompress<T: Number + Default>(bytes: &[u8], count: usize) -> PcoResult<Vec<T>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let (mut chunk, rest) = DECOMPRESSOR.chunk_decompressor::<T, _>(bytes)?;
    let mut numbers = vec![T::default(); count];
    let progress = chunk.page_decompressor(rest, count)?.read(&mut numbers)?;
    numbers.truncate(progress.n_processed);
    Ok(numbers)
}
