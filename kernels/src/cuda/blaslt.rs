//! cuBLASLt: row-major products as the transposes of column-major ones.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{LazyLock, Mutex, PoisonError};

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::cublaslt::result::{self, CublasError};
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::{DType, Device, Tensor};

use super::call::address;
use super::gemm::{Matrix, Product, begin};
use crate::{Error, Result};

/// What NVIDIA advises for Hopper.
const WORKSPACE: usize = 32 << 20;
/// Algorithms are found anew once so many are known: lengths differ from step to step.
const KNOWN: usize = 1 << 14;

/// A device's library.
struct Library {
    handle: sys::cublasLtHandle_t,
    workspace: Tensor,
    algorithms: HashMap<Key, sys::cublasLtMatmulAlgo_t>,
}

// SAFETY: the handle may be used from any thread; this one is behind a lock.
unsafe impl Send for Library {}

/// All an algorithm is chosen by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    size: [usize; 3],
    batch: usize,
    strides: [usize; 3],
    transposed: [bool; 2],
    dtypes: [bool; 2],
    alignment: [u32; 3],
    accumulate: bool,
    bias: bool,
}

static LIBRARIES: LazyLock<Mutex<HashMap<usize, Library>>> = LazyLock::new(Mutex::default);

/// Puts `product` on the stream of `device`.
pub(super) fn run(device: &CudaDevice, product: &Product) -> Result<()> {
    let stream = device.cuda_stream();
    let context = stream.context();
    let failed = |what: &str| Error::Value { op: product.op, message: format!("cuBLASLt: {what}") };
    context.bind_to_thread().map_err(|e| failed(&e.to_string()))?;
    let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
    let library = match libraries.entry(context.ordinal()) {
        std::collections::hash_map::Entry::Occupied(there) => there.into_mut(),
        std::collections::hash_map::Entry::Vacant(empty) => empty.insert(Library::new(device)?),
    };
    let at = [begin(product.op, &product.a)?, begin(product.op, &product.b)?, begin(product.op, &product.c)?];
    let bias = product.bias.map(|bias| address(product.op, bias)).transpose()?.map(|(_, address)| address);
    let (_, workspace) = address(product.op, &library.workspace)?;
    library.run(product, at, bias, workspace, stream.cu_stream().cast()).map_err(|e| {
        let [m, n, k] = product.size;
        failed(&format!("{m} x {k} by {k} x {n}, {} of them, {:?}: {e:?}", product.batch, product.a.tensor.dtype()))
    })
}

impl Library {
    fn new(device: &CudaDevice) -> Result<Self> {
        let failed = |e: CublasError| Error::Value { op: "cublaslt", message: format!("cuBLASLt cannot begin: {e:?}") };
        let handle = result::create_handle().map_err(failed)?;
        let workspace = Tensor::zeros(WORKSPACE, DType::U8, &Device::Cuda(device.clone()))?;
        Ok(Self { handle, workspace, algorithms: HashMap::new() })
    }

    fn run(
        &mut self,
        product: &Product,
        at: [CUdeviceptr; 3],
        bias: Option<CUdeviceptr>,
        workspace: CUdeviceptr,
        stream: sys::cudaStream_t,
    ) -> std::result::Result<(), CublasError> {
        let [m, n, k] = product.size;
        // Read by columns, C^T = B^T A^T.
        let left = Layout::new(&product.b, [k, n], product.batch)?;
        let right = Layout::new(&product.a, [m, k], product.batch)?;
        let out = Layout::new(&product.c, [m, n], product.batch)?;
        let desc = Description::new(product, bias)?;
        let key = key(product, at);
        let algorithm = match self.algorithms.get(&key) {
            Some(&known) => known,
            None => {
                let found = find(self.handle, &desc, [&left, &right, &out], key.alignment)?;
                if self.algorithms.len() >= KNOWN {
                    self.algorithms.clear();
                }
                self.algorithms.insert(key, found);
                found
            }
        };
        let (alpha, beta) = (1f32, if product.accumulate { 1f32 } else { 0f32 });
        let pointer = |address: CUdeviceptr| address as *mut c_void;
        // SAFETY: the descriptions live until the end of this function, the operands until the stream has passed; `Product::check` has seen that they hold the matrices.
        unsafe {
            result::matmul(
                self.handle,
                desc.0,
                std::ptr::from_ref(&alpha).cast(),
                std::ptr::from_ref(&beta).cast(),
                pointer(at[1]),
                left.0,
                pointer(at[0]),
                right.0,
                pointer(at[2]),
                out.0,
                pointer(at[2]),
                out.0,
                &algorithm,
                pointer(workspace),
                WORKSPACE,
                stream,
            )
        }
    }
}

fn key(product: &Product, at: [CUdeviceptr; 3]) -> Key {
    let (a, b, c) = (&product.a, &product.b, &product.c);
    Key {
        size: product.size,
        batch: product.batch,
        strides: [a.stride, b.stride, c.stride],
        transposed: [a.transposed, b.transposed],
        dtypes: [a.tensor.dtype() == DType::BF16, c.tensor.dtype() == DType::BF16],
        alignment: at.map(alignment),
        accumulate: product.accumulate,
        bias: product.bias.is_some(),
    }
}

/// The largest power of two up to 256 that divides an address.
fn alignment(address: CUdeviceptr) -> u32 {
    1 << address.trailing_zeros().min(8)
}

fn data_type(t: &Tensor) -> sys::cudaDataType {
    match t.dtype() {
        DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
        _ => sys::cudaDataType::CUDA_R_32F,
    }
}

/// A stored matrix as cuBLASLt sees it: its columns are our rows.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(x: &Matrix, [rows, columns]: [usize; 2], batch: usize) -> std::result::Result<Self, CublasError> {
        let (rows, columns) = if x.transposed { (columns, rows) } else { (rows, columns) };
        let layout = result::create_matrix_layout(data_type(x.tensor), columns as u64, rows as u64, x.stride as i64)?;
        let layout = Self(layout);
        if batch > 1 {
            use sys::cublasLtMatrixLayoutAttribute_t as Attribute;
            let (count, step) = (batch as i32, x.step as i64);
            // SAFETY: the layout is alive and the values have the sizes given.
            unsafe {
                let count_at = std::ptr::from_ref(&count).cast();
                result::set_matrix_layout_attribute(
                    layout.0,
                    Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                    count_at,
                    4,
                )?;
                let (step_at, attribute) =
                    (std::ptr::from_ref(&step).cast(), Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET);
                result::set_matrix_layout_attribute(layout.0, attribute, step_at, 8)?;
            }
        }
        Ok(layout)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What is done with the operands.
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn new(product: &Product, bias: Option<CUdeviceptr>) -> std::result::Result<Self, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        // Not TF32: f32 means f32.
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let desc = Self(result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F)?);
        let transpose = |x: &Matrix| i32::from(x.transposed);
        desc.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &transpose(&product.b))?;
        desc.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &transpose(&product.a))?;
        if let Some(bias) = bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
            desc.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            desc.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        Ok(desc)
    }

    fn set<T>(
        &self,
        attribute: sys::cublasLtMatmulDescAttributes_t,
        value: &T,
    ) -> std::result::Result<(), CublasError> {
        // SAFETY: the description is alive and the value has the size given.
        unsafe {
            result::set_matmul_desc_attribute(self.0, attribute, std::ptr::from_ref(value).cast(), size_of::<T>())
        }
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// The algorithm the library thinks fastest, for operands no better aligned than they are.
fn find(
    handle: sys::cublasLtHandle_t,
    desc: &Description,
    [left, right, out]: [&Layout; 3],
    [a, b, c]: [u32; 3],
) -> std::result::Result<sys::cublasLtMatmulAlgo_t, CublasError> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
    let preference = result::create_matmul_pref()?;
    let workspace = WORKSPACE as u64;
    let alignments = [
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c),
    ];
    // SAFETY: the preference is alive until it is destroyed below, and the values have the sizes given.
    unsafe {
        let found = (|| {
            let (attribute, at) =
                (Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::ptr::from_ref(&workspace).cast());
            result::set_matmul_pref_attribute(preference, attribute, at, 8)?;
            for (attribute, value) in &alignments {
                result::set_matmul_pref_attribute(preference, *attribute, std::ptr::from_ref(value).cast(), 4)?;
            }
            result::get_matmul_algo_heuristic(handle, desc.0, left.0, right.0, out.0, out.0, preference)
        })();
        let _ = result::destroy_matmul_pref(preference);
        found.map(|found| found.algo)
    }
}
