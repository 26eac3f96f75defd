// Key files: which are taken, which are refused and with what words, and the race for the per-user
// one.
//
// Leans on scratch folders in /tmp; the environment is set by each test. Tests on
// foreign owners need root and say so when it is missing.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "base/status.h"
#include "check.h"
#include "wire/key.h"

using namespace tent;

namespace {

using Buffer = std::vector<uint8_t>;

// A folder of its own per test, with the environment pointing into it.
struct Scratch {
    std::string path;

    Scratch() {
        char name[] = "/tmp/tent-key-test-XXXXXX";
        path = mkdtemp(name);
        unsetenv("TENT_KEY_FILE");
        setenv("XDG_STATE_HOME", path.c_str(), 1);
        setenv("HOME", path.c_str(), 1);
    }
    ~Scratch() {
        const std::string command = "rm -rf '" + path + "'";
        if (system(command.c_str()) != 0) perror("rm");
    }
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;

    std::string file(const char *name, const std::string &content, mode_t mode = 0600) const {
        const std::string full = path + "/" + name;
        const int fd = open(full.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        CHECK(write(fd, content.data(), content.size()) == static_cast<ssize_t>(content.size()));
        CHECK_EQ(fchmod(fd, mode), 0);
        close(fd);
        return full;
    }
    std::string user_key() const { return path + "/tent/key"; }
};

int32_t load_file(const std::string &path, Buffer *key) {
    KeySources sources;
    sources.file = path.c_str();
    bool from_user_file = true;
    const int32_t status = load_key(sources, &from_user_file, key);
    CHECK(!from_user_file);
    return status;
}

int32_t load_user(Buffer *key) {
    KeySources sources;
    sources.allow_user_file = true;
    return load_key(sources, nullptr, key);
}

bool sentence_has(const std::string &part) {
    const bool found = strstr(last_error(), part.c_str()) != nullptr;
    if (!found) fprintf(stderr, "  the sentence is: %s\n", last_error());
    return found;
}

const std::string SECRET = "0123456789abcdef";

}  // namespace

TEST(explicit_bytes_are_taken_and_measured) {
    const Scratch scratch;
    Buffer key;
    KeySources sources;
    sources.bytes = SECRET.data();
    sources.size = SECRET.size();
    sources.file = "/nonexistent";  // not looked at
    CHECK_EQ(load_key(sources, nullptr, &key), TENT_OK);
    CHECK(key == Buffer(SECRET.begin(), SECRET.end()));
    sources.size = KEY_SIZE_MIN - 1;
    CHECK_EQ(load_key(sources, nullptr, &key), TENT_E_INVALID);
    CHECK(key.empty());
}

TEST(one_line_end_of_a_key_file_is_not_part_of_the_key) {
    const Scratch scratch;
    for (const char *end : {"", "\n", "\r\n"}) {
        Buffer key;
        CHECK_EQ(load_file(scratch.file("k", SECRET + end), &key), TENT_OK);
        CHECK(key == Buffer(SECRET.begin(), SECRET.end()));
    }
    Buffer key;
    CHECK_EQ(load_file(scratch.file("k", SECRET + "\n\n"), &key), TENT_OK);
    CHECK_EQ(key.size(), SECRET.size() + 1);
}

TEST(unsafe_and_useless_key_files_are_refused_with_the_reason) {
    const Scratch scratch;
    Buffer key;
    CHECK_EQ(load_file(scratch.path + "/none", &key), TENT_E_SYSTEM);
    CHECK(sentence_has("does not exist"));
    CHECK_EQ(load_file(scratch.file("k", ""), &key), TENT_E_AUTH);
    CHECK(sentence_has("is empty"));
    CHECK_EQ(load_file(scratch.file("k", "short\n"), &key), TENT_E_AUTH);
    CHECK(sentence_has("holds 5 bytes"));
    CHECK_EQ(load_file(scratch.file("k", std::string(KEY_SIZE_MAX, 'k') + "\r\n"), &key), TENT_OK);
    CHECK_EQ(load_file(scratch.file("k", std::string(KEY_SIZE_MAX + 1, 'k')), &key), TENT_E_AUTH);
    CHECK(sentence_has("is longer"));
    CHECK_EQ(load_file(scratch.path, &key), TENT_E_AUTH);
    CHECK(sentence_has("not a regular file"));
    CHECK_EQ(mkfifo((scratch.path + "/fifo").c_str(), 0600), 0);
    CHECK_EQ(load_file(scratch.path + "/fifo", &key), TENT_E_AUTH);
    CHECK(key.empty());
}

TEST(key_file_open_to_others_is_refused) {
    const Scratch scratch;
    Buffer key;
    // Group read is for files of root's (mounted secrets); others never.
    const mode_t group_read_refused = geteuid() == 0 ? 0660 : 0640;
    for (const mode_t mode : {group_read_refused, mode_t{0604}, mode_t{0620}, mode_t{0602}}) {
        CHECK_EQ(load_file(scratch.file("k", SECRET, mode), &key), TENT_E_AUTH);
        CHECK(sentence_has("open to other users"));
    }
    CHECK_EQ(load_file(scratch.file("k", SECRET, 0400), &key), TENT_OK);
}

TEST(key_file_of_another_user_is_refused) {
    if (geteuid() != 0) {
        puts("(skipped: needs root to give a file away)");
        return;
    }
    const Scratch scratch;
    Buffer key;
    const std::string path = scratch.file("k", SECRET);
    CHECK_EQ(chown(path.c_str(), 12345, 0), 0);
    CHECK_EQ(load_file(path, &key), TENT_E_AUTH);
    CHECK(sentence_has("belongs to user 12345"));
}

TEST(environment_names_a_file_only_when_the_caller_does_not) {
    const Scratch scratch;
    const std::string environment = scratch.file("e", "environment-secret");
    const std::string named = scratch.file("n", "named-by-the-caller");
    setenv("TENT_KEY_FILE", environment.c_str(), 1);
    Buffer key;
    CHECK_EQ(load_user(&key), TENT_OK);
    CHECK_EQ(key.size(), strlen("environment-secret"));
    CHECK_EQ(load_file(named, &key), TENT_OK);
    CHECK_EQ(key.size(), strlen("named-by-the-caller"));
    // A bad one is an error, not a reason to go on to the next source.
    setenv("TENT_KEY_FILE", (scratch.path + "/none").c_str(), 1);
    CHECK_EQ(load_user(&key), TENT_E_SYSTEM);
    CHECK(sentence_has("TENT_KEY_FILE"));
    unsetenv("TENT_KEY_FILE");
}

TEST(without_any_key_beyond_loopback_there_is_none) {
    const Scratch scratch;
    Buffer key;
    CHECK_EQ(load_key(KeySources{}, nullptr, &key), TENT_E_AUTH);
    CHECK(access(scratch.user_key().c_str(), F_OK) != 0);
}

TEST(user_file_is_made_once_and_private) {
    const Scratch scratch;
    const mode_t old_umask = umask(0);
    KeySources sources;
    sources.allow_user_file = true;
    bool from_user_file = false;
    Buffer first, second;
    CHECK_EQ(load_key(sources, &from_user_file, &first), TENT_OK);
    umask(old_umask);
    CHECK(from_user_file);
    CHECK_EQ(first.size(), USER_KEY_SIZE);
    CHECK_EQ(load_user(&second), TENT_OK);
    CHECK(first == second);
    struct stat info;
    CHECK_EQ(stat(scratch.user_key().c_str(), &info), 0);
    CHECK_EQ(info.st_mode & 07777, 0600u);
    CHECK_EQ(info.st_nlink, 1u);
    CHECK_EQ(stat((scratch.path + "/tent").c_str(), &info), 0);
    CHECK_EQ(info.st_mode & 07777, 0700u);
}

TEST(user_file_lies_below_home_without_xdg) {
    const Scratch scratch;
    setenv("XDG_STATE_HOME", "relative/is/ignored", 1);
    Buffer key;
    CHECK_EQ(load_user(&key), TENT_OK);
    CHECK_EQ(access((scratch.path + "/.local/state/tent/key").c_str(), F_OK), 0);
}

TEST(user_file_that_is_a_symlink_or_open_is_refused) {
    const Scratch scratch;
    Buffer key;
    CHECK_EQ(load_user(&key), TENT_OK);
    CHECK_EQ(chmod(scratch.user_key().c_str(), 0640), 0);
    CHECK_EQ(load_user(&key), TENT_E_AUTH);
    CHECK(sentence_has("chmod 0600"));
    CHECK_EQ(unlink(scratch.user_key().c_str()), 0);
    const std::string target = scratch.file("target", SECRET);
    CHECK_EQ(symlink(target.c_str(), scratch.user_key().c_str()), 0);
    CHECK_EQ(load_user(&key), TENT_E_AUTH);
    CHECK(sentence_has("symbolic link"));
}

TEST(user_folder_open_to_others_is_refused) {
    const Scratch scratch;
    Buffer key;
    CHECK_EQ(mkdir((scratch.path + "/tent").c_str(), 0700), 0);
    CHECK_EQ(chmod((scratch.path + "/tent").c_str(), 0770), 0);
    CHECK_EQ(load_user(&key), TENT_E_AUTH);
    CHECK(sentence_has("chmod 0700"));
    CHECK_EQ(rmdir((scratch.path + "/tent").c_str()), 0);
    CHECK_EQ(symlink("/tmp", (scratch.path + "/tent").c_str()), 0);
    CHECK_EQ(load_user(&key), TENT_E_AUTH);
    CHECK(sentence_has("is not a folder"));
}

TEST(processes_that_race_for_the_user_file_end_with_one_key) {
    constexpr int PROCESSES = 8;
    for (int round = 0; round < 10; round++) {
        const Scratch scratch;
        int start[2], results[2];
        CHECK_EQ(pipe(start), 0);
        CHECK_EQ(pipe(results), 0);
        std::vector<pid_t> children;
        for (int i = 0; i < PROCESSES; i++) {
            const pid_t child = fork();
            if (child == 0) {
                close(start[1]);
                char byte;
                (void)!read(start[0], &byte, 1);  // ends for all at once, when the parent closes it
                Buffer key;
                const bool ok = load_user(&key) == TENT_OK && key.size() == USER_KEY_SIZE;
                if (!ok) fprintf(stderr, "child: %s\n", last_error());
                _exit(ok && write(results[1], key.data(), key.size()) == USER_KEY_SIZE ? 0 : 1);
            }
            children.push_back(child);
        }
        close(start[0]);
        close(start[1]);
        close(results[1]);
        for (const pid_t child : children) {
            int status = 0;
            CHECK_EQ(waitpid(child, &status, 0), child);
            CHECK_EQ(status, 0);
        }
        Buffer keys(PROCESSES * USER_KEY_SIZE);
        CHECK_EQ(read(results[0], keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
        for (size_t i = USER_KEY_SIZE; i < keys.size(); i++) {
            if (!CHECK_EQ(keys[i], keys[i - USER_KEY_SIZE])) break;
        }
        close(results[0]);
    }
}
