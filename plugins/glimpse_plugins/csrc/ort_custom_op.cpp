// glimpse::CompactMany for onnxruntime: an operator library for the CUDA execution provider, and with GLIMPSE_HOST for
// the CPU. Where it is registered, a graph's node of that name runs here and not as its function body.
//
// Inputs and outputs are as in tensorrt_plugin.cpp. The keep mask is read on the host, where the number of kept rows must
// be known in order to allocate what goes out; so nothing waits for the GPU.
#include "compact.h"

#include <onnxruntime_c_api.h>

#include <exception>
#include <string>
#include <vector>
#ifndef GLIMPSE_HOST
#include <cuda_runtime.h>
#endif

namespace glimpse {

// The oldest interface that has all that is used here; onnxruntime 1.18 and later offer it.
constexpr uint32_t API_VERSION = 18, OPERATOR_VERSION = 17;
constexpr size_t KEEP = 0, HIDDEN = 1, POSITIONS = 2, FIRST_BUFFER = 3;
constexpr size_t COUNT = 0;

const OrtApi *api = nullptr;

struct Failure {
    OrtStatus *status;
};

void check(OrtStatus *status) {
    if (status != nullptr) throw Failure{status};
}

[[noreturn]] void fail(const std::string &text) {
    throw Failure{api->CreateStatus(ORT_INVALID_ARGUMENT, ("glimpse::CompactMany: " + text).c_str())};
}

int64_t element_bytes(ONNXTensorElementDataType type) {
    switch (type) {
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return 4;
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16: return 2;
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL: return 1;
        default: fail("a tensor has a type of another kind than float, float16, bfloat16, int8, int32, bool");
    }
}

struct Input {
    const void *data;
    ONNXTensorElementDataType type;
    std::vector<int64_t> shape;
};

Input input_at(OrtKernelContext *context, size_t index, size_t dimensions) {
    Input input{};
    const OrtValue *value = nullptr;
    check(api->KernelContext_GetInput(context, index, &value));
    if (value == nullptr) fail("input " + std::to_string(index) + " is missing");
    OrtTensorTypeAndShapeInfo *info = nullptr;
    check(api->GetTensorTypeAndShape(value, &info));
    size_t number = 0;
    OrtStatus *status = api->GetDimensionsCount(info, &number);
    input.shape.resize(number);
    if (status == nullptr) status = api->GetDimensions(info, input.shape.data(), number);
    if (status == nullptr) status = api->GetTensorElementType(info, &input.type);
    api->ReleaseTensorTypeAndShapeInfo(info);
    check(status);
    if (number != dimensions)
        fail("input " + std::to_string(index) + " must have " + std::to_string(dimensions) + " dimensions");
    check(api->GetTensorMutableData(const_cast<OrtValue *>(value), const_cast<void **>(&input.data)));
    return input;
}

void *output_at(OrtKernelContext *context, size_t index, const std::vector<int64_t> &shape) {
    OrtValue *value = nullptr;
    void *data = nullptr;
    check(api->KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value));
    check(api->GetTensorMutableData(value, &data));
    return data;
}

struct Kernel {
#ifndef GLIMPSE_HOST
    OrtMemoryInfo *memory = nullptr;

    Kernel() {
        int device = 0;
        if (cudaGetDevice(&device) != cudaSuccess) fail("no CUDA device");
        check(api->CreateMemoryInfo("Cuda", OrtDeviceAllocator, device, OrtMemTypeDefault, &memory));
    }
    ~Kernel() { api->ReleaseMemoryInfo(memory); }

    // The mask where the kernel can read it. The copy is staged before the call returns, or its source is memory that
    // outlives the run.
    const void *bring(OrtKernelContext *context, const Input &keep, size_t bytes, void *stream) const {
        void *data = nullptr;
        check(api->KernelContext_GetScratchBuffer(context, memory, bytes, &data));
        cudaError_t error =
            cudaMemcpyAsync(data, keep.data, bytes, cudaMemcpyHostToDevice, static_cast<cudaStream_t>(stream));
        if (error != cudaSuccess) fail(std::string("the keep mask cannot be copied: ") + cudaGetErrorString(error));
        return data;
    }
#endif

    void compute(OrtKernelContext *context) const {
        size_t number = 0, outputs = 0;
        check(api->KernelContext_GetInputCount(context, &number));
        check(api->KernelContext_GetOutputCount(context, &outputs));
        if (number != outputs) fail("there must be as many outputs as inputs");
        Input keep = input_at(context, KEEP, 1);
        bool bytes = keep.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
        if (!bytes && keep.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32) fail("keep must be bool or int32");
        int64_t rows = keep.shape[0], kept = 0;
        for (int64_t row = 0; row < rows; ++row)
            kept += bytes ? static_cast<const uint8_t *>(keep.data)[row] != 0
                          : static_cast<const int32_t *>(keep.data)[row] != 0;
        std::vector<glimpse_rows> tensors;
        tensors.reserve(number);
        void *count = output_at(context, COUNT, {});
        for (size_t index = HIDDEN; index < number; ++index) {
            size_t dimensions = index == HIDDEN ? 3 : index == POSITIONS ? 2 : 4;
            Input input = input_at(context, index, dimensions);
            std::vector<int64_t> shape = input.shape;
            int64_t groups = 1, capacity = 0, width = 1;
            if (index == HIDDEN) {
                capacity = shape[1], width = shape[2], shape[1] = kept;
                if (shape[0] != 1) fail("hidden must be [1, rows, width]");
            } else if (index == POSITIONS) {
                groups = shape[0], capacity = shape[1], shape[1] = kept;
            } else {
                groups = shape[0] * shape[1], capacity = shape[2], width = shape[3];
            }
            if (index < FIRST_BUFFER && capacity != rows) fail("keep, hidden and positions differ in their rows");
            void *destination = output_at(context, index, shape);
            if (index < FIRST_BUFFER && kept == 0) continue;  // an output without elements has no address
            tensors.push_back({input.data, destination, static_cast<int32_t>(groups), static_cast<int32_t>(capacity),
                               static_cast<int32_t>(width * element_bytes(input.type)), index == POSITIONS});
        }
        void *stream = nullptr;
        const void *mask = keep.data;
#ifndef GLIMPSE_HOST
        check(api->KernelContext_GetGPUComputeStream(context, &stream));
        mask = bring(context, keep, static_cast<size_t>(rows * element_bytes(keep.type)), stream);
#endif
        glimpse_keep list{mask, bytes ? GLIMPSE_MASK_BYTES : GLIMPSE_MASK_INT32, static_cast<int32_t>(rows), 0};
        int32_t status = glimpse_compact(tensors.data(), static_cast<int32_t>(tensors.size()), &list,
                                         static_cast<int32_t *>(count), stream);
        if (status != 0) {
            char text[256] = "";
            glimpse_compact_explain(status, text, sizeof(text));
            fail(text);
        }
    }
};

// Tells types and shapes of what goes out; "kept" is known only at run time.
void infer(OrtShapeInferContext *context) {
    size_t number = 0;
    check(api->ShapeInferContext_GetInputCount(context, &number));
    auto tell = [&](size_t output, ONNXTensorElementDataType type, std::vector<int64_t> shape) {
        std::vector<const char *> names;
        for (int64_t size : shape) names.push_back(size < 0 ? "kept" : "");
        OrtTensorTypeAndShapeInfo *info = nullptr;
        check(api->CreateTensorTypeAndShapeInfo(&info));
        OrtStatus *status = api->SetTensorElementType(info, type);
        if (status == nullptr) status = api->SetDimensions(info, shape.data(), shape.size());
        if (status == nullptr) status = api->SetSymbolicDimensions(info, names.data(), names.size());
        if (status == nullptr) status = api->ShapeInferContext_SetOutputTypeShape(context, output, info);
        api->ReleaseTensorTypeAndShapeInfo(info);
        check(status);
    };
    tell(COUNT, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, {});
    for (size_t index = HIDDEN; index < number; ++index) {
        OrtTensorTypeAndShapeInfo *info = nullptr;  // belongs to the context
        check(api->ShapeInferContext_GetInputTypeShape(context, index, &info));
        if (index >= FIRST_BUFFER) {
            check(api->ShapeInferContext_SetOutputTypeShape(context, index, info));
            continue;
        }
        ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        size_t dimensions = 0;
        check(api->GetTensorElementType(info, &type));
        check(api->GetDimensionsCount(info, &dimensions));
        std::vector<int64_t> shape(dimensions);
        check(api->GetDimensions(info, shape.data(), dimensions));
        if (dimensions < 2) fail("hidden and positions must have 3 and 2 dimensions");
        shape[1] = -1;
        tell(index, type, shape);
    }
}

// What onnxruntime asks about the operator.
struct Operator : OrtCustomOp {
    Operator() : OrtCustomOp{} {
        version = OPERATOR_VERSION;
        GetName = [](const OrtCustomOp *) { return "CompactMany"; };
#ifdef GLIMPSE_HOST
        GetExecutionProviderType = [](const OrtCustomOp *) -> const char * { return nullptr; };
#else
        GetExecutionProviderType = [](const OrtCustomOp *) -> const char * { return "CUDAExecutionProvider"; };
#endif
        GetInputTypeCount = GetOutputTypeCount = [](const OrtCustomOp *) { return FIRST_BUFFER + 1; };
        GetInputType = [](const OrtCustomOp *, size_t index) {
            return index == POSITIONS ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 : ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        };
        GetOutputType = [](const OrtCustomOp *, size_t index) {
            return index == COUNT || index == POSITIONS ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32
                                                        : ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        };
        GetInputCharacteristic = GetOutputCharacteristic = [](const OrtCustomOp *, size_t index) {
            return index < FIRST_BUFFER ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_VARIADIC;
        };
        GetInputMemoryType = [](const OrtCustomOp *, size_t index) {
            return index == KEEP ? OrtMemTypeCPUInput : OrtMemTypeDefault;
        };
        GetVariadicInputMinArity = GetVariadicOutputMinArity = [](const OrtCustomOp *) { return 1; };
        GetVariadicInputHomogeneity = GetVariadicOutputHomogeneity = [](const OrtCustomOp *) { return 0; };
        InferOutputShapeFn = [](const OrtCustomOp *, OrtShapeInferContext *context) -> OrtStatus * {
            return guarded([&] { infer(context); });
        };
        GetStartVersion = [](const OrtCustomOp *) { return 1; };
        GetEndVersion = [](const OrtCustomOp *) { return 1; };
        CreateKernelV2 = [](const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *, void **kernel) -> OrtStatus * {
            return guarded([&] { *kernel = new Kernel(); });
        };
        KernelComputeV2 = [](void *kernel, OrtKernelContext *context) -> OrtStatus * {
            return guarded([&] { static_cast<Kernel *>(kernel)->compute(context); });
        };
        KernelDestroy = [](void *kernel) { delete static_cast<Kernel *>(kernel); };
    }

    // No exception may leave the library.
    template <class Work>
    static OrtStatus *guarded(Work work) {
        try {
            work();
            return nullptr;
        } catch (const Failure &failure) {
            return failure.status;
        } catch (const std::exception &error) {
            return api->CreateStatus(ORT_FAIL, error.what());
        }
    }
};

}  // namespace glimpse

extern "C" GLIMPSE_API OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    using namespace glimpse;
    api = base->GetApi(API_VERSION);
    if (api == nullptr) return base->GetApi(1)->CreateStatus(ORT_FAIL, "onnxruntime is older than 1.18");
    static const Operator compact;
    // onnxruntime reads the domain while it loads graphs with these options, so it lives as long as the library.
    static OrtCustomOpDomain *domain = nullptr;
    return Operator::guarded([&] {
        if (domain == nullptr) {
            check(api->CreateCustomOpDomain("glimpse", &domain));
            check(api->CustomOpDomain_Add(domain, &compact));
        }
        check(api->AddCustomOpDomain(options, domain));
    });
}
