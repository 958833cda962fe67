// glimpse::CompactMany for TensorRT 10.3 to 11 and TensorRT-RTX: an IPluginV3 around the kernel library.
//
// Inputs:  keep BOOL or INT32 [rows]; hidden [1, rows, width]; positions INT32 [3, rows]; `buffers` tensors of a KV cache
//          [1, kv_heads, capacity, width].
// Outputs: count INT32 [] (a size tensor); hidden [1, count, width]; positions [3, count]; the KV caches, shape as before.
//
// Attributes: buffers, the number of KV caches; in_place (0 where it is not given), whether every KV cache that goes out is
// the one that came in, for networks built with PreviewFeature::kALIASED_PLUGIN_IO_10_03, and only for those.
//
// It needs TensorRT's headers but links to no library of its own: one file serves whichever library loads it.
#include "compact.h"

#include <NvInferRuntime.h>
#include <NvInferVersion.h>

#include <cstring>
#include <new>
#include <vector>

#define GLIMPSE_EXPORT extern "C" __attribute__((visibility("default")))

namespace glimpse {

using namespace nvinfer1;

constexpr char const *NAME = "CompactMany", *VERSION = "1", *NAMESPACE = "glimpse";
constexpr char const *BUFFERS = "buffers", *IN_PLACE = "in_place";
constexpr int32_t KEEP = 0, HIDDEN = 1, POSITIONS = 2, FIRST_BUFFER = 3;
constexpr int32_t COUNT = 0;

// Gives the library that loaded the plugin a way to be told what went wrong.
ILoggerFinder *logger_finder = nullptr;

int32_t fail(char const *text) noexcept {
    ILogger *logger = logger_finder == nullptr ? nullptr : logger_finder->findLogger();
    if (logger != nullptr) logger->log(ILogger::Severity::kERROR, text);
    return -1;
}

int32_t element_bytes(DataType type) noexcept {
    switch (type) {
        case DataType::kFLOAT:
        case DataType::kINT32: return 4;
        case DataType::kHALF:
        case DataType::kBF16: return 2;
        case DataType::kINT8: return 1;
        default: return 0;
    }
}

bool is_state(DataType type) noexcept {
    return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16 || type == DataType::kINT8;
}

class CompactMany final : public IPluginV3,
                          public IPluginV3OneCore,
                          public IPluginV3OneBuildV2,
                          public IPluginV3OneRuntime {
public:
    CompactMany(int32_t buffers, int32_t in_place) : buffers_(buffers), in_place_(in_place) {
        field_list_[0] = PluginField(BUFFERS, &buffers_, PluginFieldType::kINT32, 1);
        field_list_[1] = PluginField(IN_PLACE, &in_place_, PluginFieldType::kINT32, 1);
        tensors_.reserve(static_cast<size_t>(buffers) + 2);
    }

    IPluginCapability *getCapabilityInterface(PluginCapabilityType type) noexcept override {
        switch (type) {
            case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore *>(this);
            case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuildV2 *>(this);
            case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime *>(this);
            default: return nullptr;
        }
    }

    IPluginV3 *clone() noexcept override {
        try {
            return new CompactMany(buffers_, in_place_);
        } catch (std::bad_alloc const &) {
            fail("glimpse::CompactMany: out of host memory");
            return nullptr;
        }
    }

    char const *getPluginName() const noexcept override { return NAME; }
    char const *getPluginVersion() const noexcept override { return VERSION; }
    char const *getPluginNamespace() const noexcept override { return NAMESPACE; }

    int32_t getNbOutputs() const noexcept override { return FIRST_BUFFER + buffers_; }

    int32_t configurePlugin(DynamicPluginTensorDesc const *, int32_t inputs, DynamicPluginTensorDesc const *,
                            int32_t outputs) noexcept override {
        return check_number(inputs, outputs);
    }

    int32_t getOutputDataTypes(DataType *types, int32_t outputs, DataType const *input_types,
                               int32_t inputs) const noexcept override {
        if (int32_t failed = check_number(inputs, outputs)) return failed;
        types[COUNT] = DataType::kINT32;
        for (int32_t i = HIDDEN; i < outputs; ++i) types[i] = input_types[i];
        return 0;
    }

    int32_t getOutputShapes(DimsExprs const *in, int32_t inputs, DimsExprs const *, int32_t, DimsExprs *out,
                            int32_t outputs, IExprBuilder &build) noexcept override {
        if (int32_t failed = check_number(inputs, outputs)) return failed;
        if (in[KEEP].nbDims != 1 || in[HIDDEN].nbDims != 3 || in[POSITIONS].nbDims != 2)
            return fail("glimpse::CompactMany: keep, hidden and positions must have 1, 3 and 2 dimensions");
        IDimensionExpr const *rows = in[KEEP].d[0];
        IDimensionExpr const *usual = build.operation(DimensionOperation::kCEIL_DIV, *rows, *build.constant(4));
        IDimensionExpr const *count = build.declareSizeTensor(COUNT, *usual, *rows);
        out[COUNT].nbDims = 0;
        out[HIDDEN] = in[HIDDEN];
        out[HIDDEN].d[1] = count;
        out[POSITIONS] = in[POSITIONS];
        out[POSITIONS].d[1] = count;
        for (int32_t i = FIRST_BUFFER; i < outputs; ++i) {
            if (in[i].nbDims != 4) return fail("glimpse::CompactMany: a KV cache must have 4 dimensions");
            out[i] = in[i];
        }
        return 0;
    }

    bool supportsFormatCombination(int32_t at, DynamicPluginTensorDesc const *tensors, int32_t inputs,
                                   int32_t) noexcept override {
        PluginTensorDesc const &tensor = tensors[at].desc;
        if (tensor.format != TensorFormat::kLINEAR) return false;
        if (at == KEEP) return tensor.type == DataType::kBOOL || tensor.type == DataType::kINT32;
        if (at == POSITIONS || at == inputs + COUNT) return tensor.type == DataType::kINT32;
        return at < inputs ? is_state(tensor.type) : tensor.type == tensors[at - inputs].desc.type;
    }

    int32_t getAliasedInput(int32_t output) noexcept override {
        return in_place_ != 0 && output >= FIRST_BUFFER ? output : -1;
    }

    int32_t setTactic(int32_t) noexcept override { return 0; }

    int32_t onShapeChange(PluginTensorDesc const *, int32_t inputs, PluginTensorDesc const *,
                          int32_t outputs) noexcept override {
        return check_number(inputs, outputs);
    }

    int32_t enqueue(PluginTensorDesc const *in, PluginTensorDesc const *, void const *const *inputs,
                    void *const *outputs, void *, cudaStream_t stream) noexcept override {
        int32_t rows = static_cast<int32_t>(in[KEEP].dims.d[0]);
        int32_t form = in[KEEP].type == DataType::kBOOL ? GLIMPSE_MASK_BYTES : GLIMPSE_MASK_INT32;
        glimpse_keep keep{inputs[KEEP], form, rows, 0};
        tensors_.clear();
        for (int32_t i = HIDDEN; i < FIRST_BUFFER + buffers_; ++i) {
            Dims const &dims = in[i].dims;
            int32_t bytes = element_bytes(in[i].type);
            glimpse_rows tensor{inputs[i], outputs[i], 1, rows, bytes, 0};
            if (i == HIDDEN) {
                tensor.row_bytes *= static_cast<int32_t>(dims.d[2]);
            } else if (i == POSITIONS) {
                tensor.groups = static_cast<int32_t>(dims.d[0]);
                tensor.packed = 1;
            } else {
                tensor.groups = static_cast<int32_t>(dims.d[0] * dims.d[1]);
                tensor.capacity = static_cast<int32_t>(dims.d[2]);
                tensor.row_bytes *= static_cast<int32_t>(dims.d[3]);
            }
            tensors_.push_back(tensor);
        }
        int32_t status = glimpse_compact(tensors_.data(), static_cast<int32_t>(tensors_.size()), &keep,
                                         static_cast<int32_t *>(outputs[COUNT]), stream);
        if (status == 0) return 0;
        char text[256] = "glimpse::CompactMany: ";
        size_t used = std::strlen(text);
        glimpse_compact_explain(status, text + used, static_cast<int32_t>(sizeof(text) - used));
        return fail(text);
    }

    IPluginV3 *attachToContext(IPluginResourceContext *) noexcept override { return clone(); }

    PluginFieldCollection const *getFieldsToSerialize() noexcept override { return &fields_; }

private:
    int32_t check_number(int32_t inputs, int32_t outputs) const noexcept {
        if (inputs == FIRST_BUFFER + buffers_ && outputs == inputs) return 0;
        return fail("glimpse::CompactMany: the attribute \"buffers\" is not the number of KV caches");
    }

    int32_t buffers_, in_place_;
    PluginField field_list_[2];
    PluginFieldCollection fields_{2, field_list_};
    std::vector<glimpse_rows> tensors_;  // reserved, so that enqueue allocates nothing
};

class Creator final : public IPluginCreatorV3One {
public:
    IPluginV3 *createPlugin(char const *, PluginFieldCollection const *fields, TensorRTPhase) noexcept override {
        int64_t buffers = integer(fields, BUFFERS), in_place = integer(fields, IN_PLACE);
        if (buffers < 1 || buffers > 4096) {
            fail("glimpse::CompactMany: the attribute \"buffers\" is missing, or is not a number of KV caches");
            return nullptr;
        }
        try {
            return new CompactMany(static_cast<int32_t>(buffers), in_place != 0);
        } catch (std::bad_alloc const &) {
            fail("glimpse::CompactMany: out of host memory");
            return nullptr;
        }
    }

    PluginFieldCollection const *getFieldNames() noexcept override { return &fields_; }
    char const *getPluginName() const noexcept override { return NAME; }
    char const *getPluginVersion() const noexcept override { return VERSION; }
    char const *getPluginNamespace() const noexcept override { return NAMESPACE; }

private:
    static int64_t integer(PluginFieldCollection const *fields, char const *name) noexcept {
        for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i) {
            PluginField const &field = fields->fields[i];
            if (std::strcmp(field.name, name) != 0 || field.data == nullptr || field.length != 1) continue;
            if (field.type == PluginFieldType::kINT32) return *static_cast<int32_t const *>(field.data);
            if (field.type == PluginFieldType::kINT64) return *static_cast<int64_t const *>(field.data);
        }
        return 0;
    }

    PluginField field_list_[2] = {PluginField(BUFFERS, nullptr, PluginFieldType::kINT32, 1),
                                  PluginField(IN_PLACE, nullptr, PluginFieldType::kINT32, 1)};
    PluginFieldCollection fields_{2, field_list_};
};

}  // namespace glimpse

GLIMPSE_EXPORT nvinfer1::IPluginCreatorInterface *const *getCreators(int32_t &number) {
    static glimpse::Creator creator;
    static nvinfer1::IPluginCreatorInterface *const creators[] = {&creator};
    number = 1;
    return creators;
}

GLIMPSE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder *finder) { glimpse::logger_finder = finder; }
