//! A picture of layer weights over time: time runs to the right, the first layer is at the bottom, bright is heavy.

/// At most this many columns; longer histories are thinned.
const MAX_COLUMNS: usize = 400;
const CELL_WIDTH: usize = 3;
const CELL_HEIGHT: usize = 8;
/// Dark blue to yellow, evenly spaced, linear between.
const COLOURS: [[f64; 3]; 5] =
    [[68.0, 1.0, 84.0], [59.0, 82.0, 139.0], [33.0, 145.0, 140.0], [94.0, 201.0, 98.0], [253.0, 231.0, 37.0]];

/// Pixels `[height, width, 3]`.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) rgb: Vec<u8>,
}

/// Draws `history` (each row `[layers]`), scaled from zero to its largest weight. `None` if there is nothing to draw.
pub(super) fn draw(history: &[Vec<f64>]) -> Option<Picture> {
    let layers = history.iter().map(Vec::len).max().filter(|&layers| layers > 0)?;
    let stride = history.len().div_ceil(MAX_COLUMNS);
    let columns: Vec<&Vec<f64>> = history.iter().step_by(stride).collect();
    let largest = columns.iter().flat_map(|weights| weights.iter()).copied().fold(f64::MIN_POSITIVE, f64::max);
    let (width, height) = (columns.len() * CELL_WIDTH, layers * CELL_HEIGHT);
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        let layer = layers - 1 - y / CELL_HEIGHT;
        for x in 0..width {
            let weight = columns[x / CELL_WIDTH].get(layer).copied().unwrap_or(0.0);
            rgb.extend(colour(weight / largest));
        }
    }
    Some(Picture { width, height, rgb })
}

/// The colour of a share from 0 to 1.
fn colour(share: f64) -> [u8; 3] {
    let position = share.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f64;
    let below = (position as usize).min(COLOURS.len() - 2);
    let part = position - below as f64;
    std::array::from_fn(|channel| {
        let (low, high) = (COLOURS[below][channel], COLOURS[below + 1][channel]);
        (low + (high - low) * part).round() as u8
    })
}
