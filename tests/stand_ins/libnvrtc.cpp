// A libnvrtc that compiles nothing: it looks whether all that is included was given, and writes down that it was asked.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

struct Program { std::vector<std::string> texts, names; std::string code, log; };

extern "C" {
const char *nvrtcGetErrorString(int status) { return status ? "NVRTC_ERROR_COMPILATION" : "NVRTC_SUCCESS"; }
int nvrtcVersion(int *major, int *minor) { return *major = 12, *minor = 9, 0; }
int nvrtcCreateProgram(Program **program, const char *source, const char *, int count, const char **texts, const char **names) {
    *program = new Program{{source}, {}, "", ""};
    for (int i = 0; i < count; ++i) (*program)->texts.push_back(texts[i]), (*program)->names.push_back(names[i]);
    return 0;
}
int nvrtcCompileProgram(Program *program, int count, const char **options) {
    if (const char *place = std::getenv("FAKE_NVRTC_LOG")) {
        std::FILE *file = std::fopen(place, "a");
        std::fputs("compiled\n", file), std::fclose(file);
    }
    for (const std::string &text : program->texts)
        for (size_t at = 0; (at = text.find("#include ", at)) != std::string::npos; ++at) {
            size_t start = at + 10, end = text.find_first_of("\">", start);
            std::string name = text.substr(start, end - start);
            bool given = false;
            for (const std::string &known : program->names) given |= known == name;
            if (!given) return program->log = "cannot open source file " + name, 6;
        }
    for (int i = 0; i < count; ++i)
        if (!std::strncmp(options[i], "--gpu-architecture=", 19)) program->code = std::string("code for ") + (options[i] + 19);
    return program->code == "code for sm_72" ? (program->log = "sm_72 is not known", 5) : 0;
}
int nvrtcGetCUBINSize(Program *program, size_t *size) { return *size = program->code.size() + 1, 0; }
int nvrtcGetCUBIN(Program *program, char *code) { return std::strcpy(code, program->code.c_str()), 0; }
int nvrtcGetProgramLogSize(Program *program, size_t *size) { return *size = program->log.size() + 1, 0; }
int nvrtcGetProgramLog(Program *program, char *log) { return std::strcpy(log, program->log.c_str()), 0; }
int nvrtcDestroyProgram(Program **program) { return delete *program, *program = nullptr, 0; }
}
