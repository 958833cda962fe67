// Drives the TensorRT plugin as TensorRT does, with the kernels compiled for the host: from the creator to enqueue.
#include <NvInferRuntime.h>

#include <cstdint>
#include <cstdio>
#include <vector>

extern "C" nvinfer1::IPluginCreatorInterface *const *getCreators(int32_t &number);

using namespace nvinfer1;

namespace {

struct Value final : IDimensionExpr, apiv::VDimensionExpr {
    explicit Value(int64_t number, bool sizes = false) : number(number), sizes(sizes) { mImpl = this; }
    bool isConstant() const override { return true; }
    int64_t getConstantValue() const override { return number; }
    bool isSizeTensor() const override { return sizes; }
    int64_t number;
    bool sizes;
};

// Computes with known sizes; a size tensor stands for -1.
struct Builder final : IExprBuilder, apiv::VExprBuilder {
    Builder() { mImpl = this; }
    ~Builder() override {
        for (Value *value : values) delete value;
    }
    Value const *keep(int64_t number, bool sizes = false) {
        values.push_back(new Value(number, sizes));
        return values.back();
    }
    IDimensionExpr const *constant(int64_t value) override { return keep(value); }
    IDimensionExpr const *operation(DimensionOperation, IDimensionExpr const &first,
                                    IDimensionExpr const &second) override {
        int64_t by = second.getConstantValue();
        return keep((first.getConstantValue() + by - 1) / by);
    }
    IDimensionExpr const *declareSizeTensor(int32_t output, IDimensionExpr const &usual,
                                            IDimensionExpr const &most) override {
        declared = output, least = usual.getConstantValue(), upper = most.getConstantValue();
        return keep(-1, true);
    }
    std::vector<Value *> values;
    int64_t declared = -1, least = -1, upper = -1;
};

int refuse(char const *what) {
    std::fprintf(stderr, "enqueue.cpp: %s\n", what);
    return 1;
}

template <class Interface>
Interface *capability(IPluginV3 *plugin, PluginCapabilityType type) {
    return static_cast<Interface *>(plugin->getCapabilityInterface(type));
}

bool is(DimsExprs const &dims, std::vector<int64_t> const &sizes) {
    if (dims.nbDims != static_cast<int32_t>(sizes.size())) return false;
    for (int32_t i = 0; i < dims.nbDims; ++i)
        if (dims.d[i]->getConstantValue() != sizes[i]) return false;
    return true;
}

}  // namespace

// `shapes` holds 5 numbers for each input, the number of its dimensions first; `types` are nvinfer1::DataType.
extern "C" __attribute__((visibility("default"))) int run_plugin(int32_t number, int64_t const *shapes,
                                                                 int32_t const *types, void const *const *inputs,
                                                                 void *const *outputs) {
    int32_t creators = 0;
    auto *creator = static_cast<IPluginCreatorV3One *>(getCreators(creators)[0]);
    int32_t buffers = number - 3, in_place = 0;
    PluginField fields[] = {{"buffers", &buffers, PluginFieldType::kINT32, 1},
                            {"in_place", &in_place, PluginFieldType::kINT32, 1}};
    PluginFieldCollection collection{2, fields};
    PluginFieldCollection nothing{0, nullptr};
    if (creator->createPlugin("none", &nothing, TensorRTPhase::kBUILD) != nullptr) return refuse("no field is needed");
    IPluginV3 *made = creator->createPlugin("test", &collection, TensorRTPhase::kBUILD);
    if (made == nullptr) return refuse("not created");
    auto *build = capability<IPluginV3OneBuildV2>(made, PluginCapabilityType::kBUILD);
    if (build->getNbOutputs() != number) return refuse("number of outputs");
    if (build->getAliasedInput(3) != -1) return refuse("aliased though nobody asked");

    Builder builder;
    std::vector<DimsExprs> in(number), out(number);
    std::vector<DataType> in_types(number), out_types(number);
    std::vector<DynamicPluginTensorDesc> tensors(2 * number);
    std::vector<PluginTensorDesc> in_desc(number), out_desc(number);
    for (int32_t i = 0; i < number; ++i) {
        in_types[i] = static_cast<DataType>(types[i]);
        in[i].nbDims = in_desc[i].dims.nbDims = static_cast<int32_t>(shapes[5 * i]);
        for (int32_t j = 0; j < in[i].nbDims; ++j) {
            in[i].d[j] = builder.keep(shapes[5 * i + 1 + j]);
            in_desc[i].dims.d[j] = shapes[5 * i + 1 + j];
        }
        in_desc[i].type = in_types[i], in_desc[i].format = TensorFormat::kLINEAR;
    }
    if (build->getOutputShapes(in.data(), number, nullptr, 0, out.data(), number, builder) != 0)
        return refuse("shapes");
    if (builder.declared != 0 || builder.upper != shapes[1]) return refuse("size tensor");
    if (builder.least > builder.upper || builder.least < 1) return refuse("usual size");
    if (!is(out[0], {}) || !is(out[1], {1, -1, shapes[8]}) || !is(out[2], {3, -1})) return refuse("first shapes");
    for (int32_t i = 3; i < number; ++i)
        if (!is(out[i], {shapes + 5 * i + 1, shapes + 5 * i + 5})) return refuse("shape of a cache");
    if (build->getOutputDataTypes(out_types.data(), number, in_types.data(), number) != 0) return refuse("types");
    if (out_types[0] != DataType::kINT32) return refuse("type of the count");
    for (int32_t i = 1; i < number; ++i)
        if (out_types[i] != in_types[i]) return refuse("type of an output");
    for (int32_t i = 0; i < 2 * number; ++i) {
        tensors[i].desc = in_desc[i % number];
        if (i == number) tensors[i].desc.type = DataType::kINT32;
        if (!build->supportsFormatCombination(i, tensors.data(), number, number)) return refuse("a good format");
        tensors[i].desc.format = TensorFormat::kCHW4;
        if (build->supportsFormatCombination(i, tensors.data(), number, number)) return refuse("a bad format taken");
        tensors[i].desc.format = TensorFormat::kLINEAR;
    }
    tensors[number + 3].desc.type = DataType::kINT64;
    if (build->supportsFormatCombination(number + 3, tensors.data(), number, number)) return refuse("a bad type taken");
    if (build->getOutputShapes(in.data(), number - 1, nullptr, 0, out.data(), number - 1, builder) == 0)
        return refuse("a wrong number of inputs taken");

    // What an engine keeps of the plugin, and what it makes of that in another process.
    auto const *kept = capability<IPluginV3OneRuntime>(made, PluginCapabilityType::kRUNTIME)->getFieldsToSerialize();
    IPluginV3 *loaded = creator->createPlugin("loaded", kept, TensorRTPhase::kRUNTIME);
    IPluginV3 *attached = capability<IPluginV3OneRuntime>(loaded, PluginCapabilityType::kRUNTIME)->attachToContext(nullptr);
    auto *runtime = capability<IPluginV3OneRuntime>(attached, PluginCapabilityType::kRUNTIME);
    if (runtime->onShapeChange(in_desc.data(), number, out_desc.data(), number) != 0) return refuse("shape change");
    int status = runtime->enqueue(in_desc.data(), out_desc.data(), inputs, outputs, nullptr, nullptr);
    delete made;
    delete loaded;
    delete attached;
    return status;
}
