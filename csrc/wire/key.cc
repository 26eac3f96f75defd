// key.cc - loading, checking and first making of key files: see key.h.
//
// A file is opened first and judged by what the descriptor shows (fstat), so what was checked is
// what is read. The per-user file appears under its name only complete: it is written under a
// temporary name and linked.
#include "wire/key.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <tent/tent.h>

#include "base/status.h"

namespace tent {
namespace {

enum class FileRule { NAMED, PER_USER };

int32_t check_file(const char *path, const struct stat &file, FileRule rule) {
    const unsigned mode = file.st_mode & 07777;
    if (!S_ISREG(file.st_mode)) return fail(TENT_E_AUTH, "key file %s is not a regular file", path);
    const bool owned_by_root = rule == FileRule::NAMED && file.st_uid == 0;
    if (file.st_uid != geteuid() && !owned_by_root)
        return fail(TENT_E_AUTH,
                    "key file %s belongs to user %u, not to us (user %u): use a file of your own",
                    path, static_cast<unsigned>(file.st_uid), static_cast<unsigned>(geteuid()));
    const unsigned forbidden = owned_by_root ? 0037u : 0077u;
    if ((mode & forbidden) != 0)
        return fail(TENT_E_AUTH, "key file %s is open to other users (mode %04o): chmod %s it",
                    path, mode, owned_by_root ? "0440" : "0600");
    if (file.st_size == 0)
        return fail(TENT_E_AUTH, "key file %s is empty: write at least %zu random bytes to it",
                    path, KEY_SIZE_MIN);
    return TENT_OK;
}

// Reads up to the size limit plus what shows that there is more.
int32_t read_all(int fd, const char *path, std::vector<uint8_t> *key) {
    key->resize(KEY_SIZE_MAX + 3);  // the longest key, its line end, and one byte too many
    size_t used = 0;
    while (used < key->size()) {
        const ssize_t got = read(fd, key->data() + used, key->size() - used);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return fail(TENT_E_SYSTEM, "cannot read key file %s: %s", path, std::strerror(errno));
        if (got == 0) break;
        used += static_cast<size_t>(got);
    }
    if (used > 0 && (*key)[used - 1] == '\n') {
        used--;
        if (used > 0 && (*key)[used - 1] == '\r') used--;
    }
    key->resize(used);
    if (used < KEY_SIZE_MIN)
        return fail(TENT_E_AUTH, "key file %s holds %zu bytes, a key needs at least %zu", path,
                    used, KEY_SIZE_MIN);
    if (used > KEY_SIZE_MAX)
        return fail(TENT_E_AUTH, "key file %s is longer than %zu bytes: it is no key", path,
                    KEY_SIZE_MAX);
    return TENT_OK;
}

// TENT_E_NOT_FOUND when there is no such file (a sentence is left all the same).
int32_t read_key_file(const char *path, FileRule rule, std::vector<uint8_t> *key) {
    // O_NONBLOCK: a FIFO of that name must not hang the engine; for files it changes nothing.
    int flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    if (rule == FileRule::PER_USER) flags |= O_NOFOLLOW;
    const int fd = open(path, flags);
    if (fd < 0) {
        const int error = errno;
        if (error == ELOOP && rule == FileRule::PER_USER)
            return fail(TENT_E_AUTH, "key file %s is a symbolic link: remove it", path);
        return fail(error == ENOENT ? TENT_E_NOT_FOUND : TENT_E_SYSTEM,
                    "cannot open key file %s: %s", path, std::strerror(error));
    }
    struct stat file;
    int32_t status = TENT_OK;
    if (fstat(fd, &file) != 0)
        status = fail(TENT_E_SYSTEM, "cannot stat key file %s: %s", path, std::strerror(errno));
    if (status == TENT_OK) status = check_file(path, file, rule);
    if (status == TENT_OK) status = read_all(fd, path, key);
    close(fd);
    if (status != TENT_OK) key->clear();
    return status;
}

int32_t load_named(const char *path, const char *origin, std::vector<uint8_t> *key) {
    const int32_t status = read_key_file(path, FileRule::NAMED, key);
    if (status == TENT_E_NOT_FOUND)
        return fail(TENT_E_SYSTEM, "key file %s (from %s) does not exist", path, origin);
    return status;
}

// The folder must be ours alone: whoever can rename in it can give us a key he knows.
int32_t check_folder(const std::string &folder) {
    struct stat info;
    if (lstat(folder.c_str(), &info) != 0)
        return fail(TENT_E_SYSTEM, "cannot stat key folder %s: %s", folder.c_str(),
                    std::strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return fail(TENT_E_AUTH, "key folder %s is not a folder (a symbolic link is not followed)",
                    folder.c_str());
    if (info.st_uid != geteuid())
        return fail(
            TENT_E_AUTH, "key folder %s belongs to user %u, not to us (user %u): set a key file",
            folder.c_str(), static_cast<unsigned>(info.st_uid), static_cast<unsigned>(geteuid()));
    if ((info.st_mode & 0077) != 0)
        return fail(TENT_E_AUTH, "key folder %s is open to other users (mode %04o): chmod 0700 it",
                    folder.c_str(), static_cast<unsigned>(info.st_mode & 07777));
    return TENT_OK;
}

// Makes the folder and its parents (0700, as the XDG base directory specification asks). False: it
// cannot be made.
bool make_folders(const std::string &folder) {
    for (size_t at = 1; at != std::string::npos;) {
        at = folder.find('/', at + 1);
        const std::string part = folder.substr(0, at);
        if (mkdir(part.c_str(), 0700) != 0 && errno != EEXIST)
            // Parents we may not write to (EACCES, EROFS) may exist all the same.
            if (struct stat info; stat(part.c_str(), &info) != 0) return false;
    }
    struct stat info;
    return lstat(folder.c_str(), &info) == 0;
}

bool random_key(uint8_t key[USER_KEY_SIZE]) {
    do {
        for (size_t used = 0; used < USER_KEY_SIZE;) {
            const ssize_t got = getrandom(key + used, USER_KEY_SIZE - used, 0);
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) return false;
            used += static_cast<size_t>(got);
        }
        // A line end at the end would be taken for one of a text editor's.
    } while (key[USER_KEY_SIZE - 1] == '\n');
    return true;
}

bool write_all(int fd, const uint8_t *bytes, size_t size) {
    while (size > 0) {
        const ssize_t put = write(fd, bytes, size);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return false;
        bytes += put;
        size -= static_cast<size_t>(put);
    }
    return true;
}

// Gives the complete temporary file its name, unless another process was first.
bool publish(const std::string &temporary, const std::string &path) {
    if (link(temporary.c_str(), path.c_str()) == 0 || errno == EEXIST) return true;
    // Some file systems have no hard links.
    return renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) == 0 ||
           errno == EEXIST;
}

int32_t make_user_file(const std::string &path) {
    uint8_t key[USER_KEY_SIZE];
    uint64_t unique = 0;
    if (!random_key(key) || getrandom(&unique, sizeof(unique), 0) != sizeof(unique))
        return fail(TENT_E_SYSTEM, "getrandom gives no random bytes for a key: %s",
                    std::strerror(errno));
    char suffix[32];
    std::snprintf(suffix, sizeof(suffix), ".%016llx", static_cast<unsigned long long>(unique));
    const std::string temporary = path + suffix;
    const int fd =
        open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fail(TENT_E_SYSTEM, "cannot make key file %s: %s", temporary.c_str(),
                    std::strerror(errno));
    int error = 0;
    // fchmod: the umask may have taken bits that the owner needs.
    if (fchmod(fd, 0600) != 0 || !write_all(fd, key, sizeof(key)) || fsync(fd) != 0) error = errno;
    if (close(fd) != 0 && error == 0) error = errno;
    explicit_bzero(key, sizeof(key));
    if (error == 0 && !publish(temporary, path)) error = errno;
    unlink(temporary.c_str());
    if (error != 0)
        return fail(TENT_E_SYSTEM, "cannot make key file %s: %s", path.c_str(),
                    std::strerror(error));
    return TENT_OK;
}

std::string state_folder() {
    // The XDG specification: a relative path is to be ignored.
    if (const char *state = std::getenv("XDG_STATE_HOME"); state != nullptr && state[0] == '/')
        return std::string(state) + "/tent";
    if (const char *home = std::getenv("HOME"); home != nullptr && home[0] == '/')
        return std::string(home) + "/.local/state/tent";
    return "";
}

int32_t load_user_file(std::vector<uint8_t> *key) {
    std::string folder = state_folder();
    if (folder.empty() || !make_folders(folder)) {
        folder = "/tmp/tent-" + std::to_string(geteuid());
        if (!make_folders(folder))
            return fail(TENT_E_SYSTEM,
                        "cannot make a folder for the per-user key, last tried %s: %s",
                        folder.c_str(), std::strerror(errno));
    }
    if (const int32_t status = check_folder(folder); status != TENT_OK) return status;
    const std::string path = folder + "/key";
    int32_t status = read_key_file(path.c_str(), FileRule::PER_USER, key);
    if (status != TENT_E_NOT_FOUND) return status;
    status = make_user_file(path);
    if (status != TENT_OK) return status;
    // Read it back: another process may have been first, and then its key is the key.
    return read_key_file(path.c_str(), FileRule::PER_USER, key);
}

}  // namespace

int32_t load_key(const KeySources &sources, bool *from_user_file, std::vector<uint8_t> *key) {
    if (from_user_file != nullptr) *from_user_file = false;
    key->clear();
    if (sources.bytes != nullptr || sources.size != 0) {
        if (sources.bytes == nullptr || sources.size < KEY_SIZE_MIN || sources.size > KEY_SIZE_MAX)
            return fail(
                TENT_E_INVALID, "key has %llu bytes, it must have %zu to %zu",
                sources.bytes == nullptr ? 0ull : static_cast<unsigned long long>(sources.size),
                KEY_SIZE_MIN, KEY_SIZE_MAX);
        const auto *bytes = static_cast<const uint8_t *>(sources.bytes);
        key->assign(bytes, bytes + sources.size);
        return TENT_OK;
    }
    if (sources.file != nullptr && sources.file[0] != '\0')
        return load_named(sources.file, "key_file", key);
    if (const char *file = std::getenv("TENT_KEY_FILE"); file != nullptr && file[0] != '\0')
        return load_named(file, "TENT_KEY_FILE", key);
    if (!sources.allow_user_file)
        return fail(TENT_E_AUTH,
                    "no key: an engine that listens beyond loopback needs one; give key, "
                    "key_file or TENT_KEY_FILE (a file with %zu or more random bytes)",
                    KEY_SIZE_MIN);
    const int32_t status = load_user_file(key);
    if (status == TENT_OK && from_user_file != nullptr) *from_user_file = true;
    return status;
}

}  // namespace tent
