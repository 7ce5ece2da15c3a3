//! Recordings as we write them: WAV, 16 kHz, mono, 16 bits.

use super::audio::SAMPLE_RATE;
use std::io;
use std::path::Path;

/// Writes `samples` to `path`.
///
/// # Errors
/// Whatever the operating system says.
pub fn write(path: &Path, samples: &[i16]) -> io::Result<()> {
    let (channels, bits_per_sample, sample_format) = (1, 16, hound::SampleFormat::Int);
    let spec = hound::WavSpec { channels, sample_rate: SAMPLE_RATE, bits_per_sample, sample_format };
    let write = || {
        let mut writer = hound::WavWriter::create(path, spec)?;
        samples.iter().try_for_each(|&sample| writer.write_sample(sample))?;
        writer.finalize()
    };
    write().map_err(|error| match error {
        hound::Error::IoError(source) => source,
        other => io::Error::other(other),
    })
}
