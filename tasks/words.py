"""Words that tasks are made of.

They are common English words that most tokenizers keep whole behind a space. Tasks filter them again by the model's own
tokenizer (`tasks.base`), so nothing here depends on one.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _rows(text: str) -> tuple[tuple[str, ...], ...]:
    """Rows of words from `"a b, c d"`."""
    return tuple(tuple(row.split()) for row in text.split(","))


MALE_NAMES = _words("""
    John James Robert Michael William David Richard Thomas Charles Daniel Matthew Mark Paul Steven Andrew Kevin
    Brian George Edward Ryan Jason Jeff Eric Adam Peter Jack Henry Tom Tim Sam Ben Luke Max Alex Simon Tony Frank
    Scott Ian Joe Bob Bill Mike Steve Chris Nick Greg Josh Jacob Nathan Aaron Patrick Sean Carl Keith Roger Ralph
    Howard Eugene Albert Arthur Fred Walter Harry Oliver Leo Victor Martin Louis Philip Alan Anthony Kenneth Stephen
    Jonathan Justin Benjamin Samuel Alexander
""")
FEMALE_NAMES = _words("""
    Mary Emily Sarah Jessica Jennifer Elizabeth Lisa Anna Amy Laura Rachel Emma Kate Alice Julia Rebecca Maria Susan
    Karen Nancy Linda Barbara Margaret Helen Ruth Sandra Carol Michelle Amanda Melissa Stephanie Nicole Katherine
    Christine Samantha Heather Diane Julie Victoria Kelly Joan Lauren Olivia Sophia Grace Jane Claire Lucy Rose
    Marie Anne Hannah Lily Ella Eva Sophie Charlotte Amelia Isabella Molly Rosa Jill Wendy Kim Dorothy
""")
PLACES = _words("""
    store park school garden restaurant office station hospital library beach market museum
""")
OBJECTS = _words("""
    drink book ring gift letter ball key card necklace computer kiss bone basketball
""")
# Things that last: "the war lasted from the year …".
EVENTS = _words("""
    campaign dispute dynasty expedition invasion investigation journey kingdom marriage operation plague program
    project reign relationship siege study tour tradition treaty trial voyage war
""")
# Names of function arguments.
ARGUMENTS = _words("""
    buffer cache client code color config context count data date end event field file filter format group height
    host image index input item key label limit line list message mode model name node offset option order output
    path port query rate request response result score server session shape size source start state step table
    target text time token type user value version weight width
""")
# Names of functions.
METHODS = _words("""
    load run update process create build compute parse get set send read write open close find make check
""")
# Adjectives for docstrings.
DESCRIPTIONS = _words("""
    first second main default current new given local global final total other original initial
""")
# Words of organisations' names, for acronyms.
CAPITALISED = _words("""
    Advanced American Applied Association Agency Authority Board Bureau British Business Center Central Chief
    Committee Computer Council Data Defense Department Digital Education Energy European Executive Federal Financial
    Foundation Fund General Global Group Health Human Information Institute International Investment Journal Justice
    Knowledge Labor Language Law Library Local Management Market Medical Medicine Mental National Natural Network
    Nuclear Office Officer Operations Organization Oxford Party Physical Planning Policy Power Program Project
    Public Quality Quantum Radio Regional Research Resource Royal Safety School Science Security Service Social
    Society Space Standard State Systems Technical Technology Trade Training Transport Union United Universal
    University Urban Vehicle Virtual Visual Water Western World
""")
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words("January February March April May June July August September October November December")
NUMBERS = _words("one two three four five six seven eight nine ten eleven twelve")
ORDINALS = _words("first second third fourth fifth sixth seventh eighth ninth tenth")
NUMERALS = _words("I II III IV V VI VII VIII IX X XI XII")
# Adjectives for reviews.
POSITIVE = _words("""
    great amazing wonderful fantastic excellent brilliant beautiful perfect lovely incredible
""")
NEGATIVE = _words("""
    terrible awful horrible boring bad poor disappointing dreadful ugly annoying
""")
# Singular, plural.
SUBJECTS = _rows("""
    teacher teachers, doctor doctors, student students, manager managers, pilot pilots, lawyer lawyers, farmer
    farmers, writer writers, actor actors, artist artists, author authors, customer customers, consultant
    consultants, officer officers, singer singers, player players, guard guards, driver drivers, worker workers,
    parent parents, friend friends, girl girls, boy boys, king kings, leader leaders, soldier soldiers, engineer
    engineers, scientist scientists, painter painters, dancer dancers
""")
# Country, capital.
CAPITALS = _rows("""
    France Paris, Germany Berlin, Italy Rome, Spain Madrid, Japan Tokyo, China Beijing, Russia Moscow, England
    London, Egypt Cairo, Greece Athens, Austria Vienna, Ireland Dublin, Cuba Havana, Iraq Baghdad, Iran Tehran, Peru
    Lima, Canada Ottawa, Poland Warsaw, Portugal Lisbon, Sweden Stockholm, Norway Oslo, Denmark Copenhagen, Hungary
    Budapest, Belgium Brussels, Kenya Nairobi, Australia Canberra, Finland Helsinki, Syria Damascus, Chile
    Santiago, Scotland Edinburgh, Israel Jerusalem, Afghanistan Kabul, Korea Seoul, Bulgaria Sofia, Philippines
    Manila
""")
# Country, official language.
LANGUAGES = _rows("""
    France French, Germany German, Italy Italian, Spain Spanish, Japan Japanese, China Chinese, Russia Russian,
    England English, Greece Greek, Portugal Portuguese, Brazil Portuguese, Mexico Spanish, Egypt Arabic, Turkey
    Turkish, Poland Polish, Sweden Swedish, Korea Korean, Hungary Hungarian, Finland Finnish, Denmark Danish,
    Thailand Thai, Argentina Spanish, Iraq Arabic, Austria German
""")
# Word, opposite.
ANTONYMS = _rows("""
    hot cold, big small, up down, left right, good bad, fast slow, high low, open closed, old new, rich poor, happy
    sad, light dark, early late, strong weak, long short, hard easy, young old, black white, day night, true false,
    inside outside, love hate, win lose, buy sell, push pull, male female, wet dry, full empty, thick thin, north
    south, east west, summer winter, war peace, alive dead, front back, top bottom, always never, before after,
    positive negative, increase decrease, start end, first last, tall short, heavy light, clean dirty, loud quiet,
    deep shallow, wide narrow, sharp dull, smart stupid, success failure, friend enemy, hero villain, question
    answer, husband wife, king queen, brother sister, boy girl
""")
# Thing, kind.
HYPERNYMS = _rows("""
    eagle bird, hawk bird, owl bird, parrot bird, duck bird, penguin bird, crow bird, pigeon bird, salmon fish,
    trout fish, tuna fish, shark fish, cod fish, apple fruit, banana fruit, orange fruit, grape fruit, peach fruit,
    mango fruit, pear fruit, lemon fruit, cherry fruit, strawberry fruit, carrot vegetable, potato vegetable,
    spinach vegetable, onion vegetable, cabbage vegetable, lettuce vegetable, broccoli vegetable, oak tree, pine
    tree, maple tree, willow tree, cedar tree, rose flower, lily flower, orchid flower, iron metal, copper metal,
    gold metal, silver metal, aluminum metal, steel metal, ant insect, bee insect, butterfly insect, mosquito
    insect, beetle insect, wasp insect, piano instrument, guitar instrument, violin instrument, flute instrument,
    drum instrument, trumpet instrument, car vehicle, truck vehicle, bus vehicle, bicycle vehicle, van vehicle
""")
# Present, past.
PAST_TENSES = _rows("""
    go went, eat ate, see saw, take took, give gave, make made, come came, run ran, write wrote, drink drank, sing
    sang, swim swam, begin began, buy bought, think thought, bring brought, teach taught, catch caught, find found,
    tell told, sell sold, leave left, feel felt, keep kept, sleep slept, meet met, lose lost, win won, speak spoke,
    break broke, choose chose, drive drove, ride rode, fall fell, grow grew, know knew, fly flew, draw drew, hold
    held, build built, spend spent, send sent, stand stood, hear heard, pay paid, say said
""")
# Words of all kinds, each once, for tasks that need many and no meaning.
MIXED = tuple(sorted({
    word
    for listed in (
        MALE_NAMES, FEMALE_NAMES, PLACES, OBJECTS, EVENTS, ARGUMENTS, CAPITALISED,
        *SUBJECTS, *ANTONYMS, *PAST_TENSES,
    )
    for word in listed
}))  # fmt: skip
